"""Evaluation of priors and generated objects against the ground truth of the Toybox world."""
