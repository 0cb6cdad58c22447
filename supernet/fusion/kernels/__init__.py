"""Kernels of our own in C++, and the door to oneDNN's."""
