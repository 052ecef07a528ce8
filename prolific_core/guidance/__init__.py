"""Guidance methods, which distil the prior into gradients on rendered images, with one file per method."""
