"""The Toybox: a small procedural world of captioned 3D objects, and the models trained on its renders.

The package itself imports nothing; torch and the other large libraries are imported by the submodules that need them.
"""
