"""The Toybox: a small world of captioned 3D things, and the models trained on it.

Light to import: heavy libraries load in the submodules that need them.
"""
