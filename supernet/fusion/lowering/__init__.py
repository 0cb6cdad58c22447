"""Regions of a program onto kernels, and what torch compiles of the rest."""
