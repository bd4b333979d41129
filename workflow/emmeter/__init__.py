"""Effective model memorization (EMM) of diffusion models: how many training images a model can replay."""

__version__ = "0.1.0"
