"""Scenes, that is, what distillation trains, and the files that hold them."""
