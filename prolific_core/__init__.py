"""Text-to-3D by variational score distillation, as a plain PyTorch library."""

from importlib import import_module
from typing import Any

# Public names by module. They are imported on first use, so that `import prolific_core` does not load torch. Type
# checkers read the same names from __init__.pyi.
_MODULES = {
    "cameras": ("Cameras", "orbit"),
    "config": ("FieldConfig", "GuidanceConfig", "StageConfig"),
    "guidance.base": ("Guidance", "build_guidance"),
    "mesh.export": ("load_glb",),
    "optimise": ("distil",),
    "prior.latent_diffusion": ("LatentDiffusion",),
    "prior.scorer": ("Scorer",),
    "scenes.base": ("Scene",),
    "scenes.image": ("ImageScene", "LatentScene"),
    "scenes.radiance_field": ("RadianceField",),
    "scenes.surface": ("TetrahedralSurface",),
    "scenes.textured_mesh": ("TexturedMesh",),
    "visualisation": ("save_image",),
}
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _MODULES.items() for name in names}
__all__ = list(_MODULE_OF)  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return __all__
