"""Rendering: encoding, marching, compositing, rasterising; one source for CPU and GPU."""

from prolific_core.render.result import Render

__all__ = ["Render"]
