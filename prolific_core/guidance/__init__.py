"""Distillation guidance: each method and each composition of the guided score is one file, found by its name."""
