"""Controlled experiments that compare methods."""
