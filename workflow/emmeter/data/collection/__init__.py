"""Collections of images for an audit: folders, arrays, archives and manifests, read by all cores."""
