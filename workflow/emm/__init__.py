"""Measure the effective model memorization (EMM) of diffusion models."""

import gc

# torch brings a million objects that stay; the search for garbage among them, again and again while they come, took a
# sixth of every process's start-up.  What our stages compute leaves no cycles to be found.
gc.set_threshold(100_000, 50, 50)
