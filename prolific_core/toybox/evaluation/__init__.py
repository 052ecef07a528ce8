"""Evaluation of priors and generated objects against the known world."""
