"""Controlled experiments that compare guidance methods."""
