"""Guidance methods, which compute gradients on rendered images from the prior. Each method is one file."""
