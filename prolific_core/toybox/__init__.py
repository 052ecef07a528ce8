"""The Toybox: a small procedural world of captioned 3D objects, and the models trained on its renders.

This package imports nothing itself; torch and other large libraries are imported by the submodules that need them.
"""
