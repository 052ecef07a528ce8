"""The kinds of priors, and loading of a prior of any of them."""

from typing import Any

from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.latent_diffusion_xl import LatentDiffusionXL
from prolific_core.prior.location import kind_of
from prolific_core.prior.multi_view import MultiViewDiffusion

#: Class of each kind of model; see `location.kind_of`.
KINDS: dict[str, type[LatentDiffusion]] = {
    "sd": LatentDiffusion,
    "xl": LatentDiffusionXL,
    "multi-view": MultiViewDiffusion,
}


def load_prior(path: str, *, key: str = "prior.path", **options: Any) -> LatentDiffusion:
    """Load a frozen model with the class of its kind.

    Args:
        path: `toybox`, a folder, a `.safetensors` file of a whole model, or a model id on the Hugging Face hub.
        key: Name of the setting that holds the path, for error messages.
        options: Further arguments of `LatentDiffusion.load`.

    Returns:
        The frozen model.

    Raises:
        InputError: A part of the model is missing, or the model is of an unsupported kind.
    """
    return KINDS[kind_of(path, key)].load(path, key=key, **options)
