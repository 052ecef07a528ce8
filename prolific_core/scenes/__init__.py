"""Scenes that distillation trains, and the files that store them."""
