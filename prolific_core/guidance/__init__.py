"""Guidance: gradients of rendered images by distillation of the prior, with one file per method."""
