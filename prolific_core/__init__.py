"""Text-to-3D by variational score distillation, as a plain PyTorch library."""

# ruff: noqa: F401 (the imports below are for type checkers; `__getattr__` performs them at run time)

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from prolific_core.cameras import Cameras, orbit
    from prolific_core.config import FieldConfig, GuidanceConfig, StageConfig
    from prolific_core.guidance.base import Guidance, build_guidance
    from prolific_core.mesh.export import load_glb
    from prolific_core.optimise import distil
    from prolific_core.prior.latent_diffusion import LatentDiffusion
    from prolific_core.prior.scorer import Scorer
    from prolific_core.scenes.base import Scene
    from prolific_core.scenes.image import ImageScene, LatentScene
    from prolific_core.scenes.radiance_field import RadianceField
    from prolific_core.scenes.surface import TetrahedralSurface
    from prolific_core.scenes.textured_mesh import TexturedMesh
    from prolific_core.visualisation import save_image

# Public names by module. They are imported on first use, so that `import prolific_core` does not load torch.
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
