"""Metrics for images and sets of images.

- `alignment.py`: similarity of images and text by a CLIP-style scorer.
- `fidelity.py`: distances between two sets of features, and from each feature to its nearest reference.
- `diversity.py`: diversity and colour saturation of a set of images.
"""
