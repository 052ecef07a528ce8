"""Experiments on the method itself."""
