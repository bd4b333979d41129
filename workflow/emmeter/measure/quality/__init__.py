"""Image quality: how generated images compare with real ones, beside what other real images would show.

All functions take features, float arrays (n, d): one row per image, in any feature space.

=====================  ============================================================================
`distributions`        Fréchet distance and kernel MMD: two distributions as a whole
`neighbourhoods`       precision, recall, density, coverage and authenticity: nearest neighbours
`floors`               both against one set of real images, and the same for other real images
=====================  ============================================================================
"""
