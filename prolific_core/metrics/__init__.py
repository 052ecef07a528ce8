"""Metrics of images and of sets of images.

- `alignment.py`: similarity of images and text by a CLIP-style scorer.
- `fidelity.py`: distances between two sets of features, and to the nearest reference.
- `diversity.py`: variety and colour saturation of a set of images.
"""
