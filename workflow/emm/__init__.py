"""Measure the effective model memorization (EMM) of diffusion models."""
