"""Noise schedule of a diffusion model, conversions between its prediction types, and classifier-free guidance."""

from typing import Any

from jaxtyping import Float, Int
from torch import Tensor, nn

from prolific_core.errors import InputError

#: Latents, and noise or predictions of the same shape.
Latents = Float[Tensor, "batch channels h w"]
#: Time steps of the diffusion, from 0 to the number of steps minus 1.
Times = Int[Tensor, " batch"]
#: Embeddings of one text per row.
TextEmbeddings = Float[Tensor, "batch tokens features"]


class NoiseSchedule(nn.Module):
    """Noise schedule of the forward process x_t = alpha x_0 + sigma eps (Ho et al., arXiv 2006.11239, eq. 4).

    Networks output either the noise eps or the velocity v = alpha eps - sigma x_0 (Salimans & Ho, arXiv 2202.00512).
    The methods that convert between them use the scheduler's prediction type unless another one is given.

    Args:
        scheduler: A diffusers scheduler.

    Raises:
        InputError: The scheduler's prediction type is neither `epsilon` nor `v_prediction`.
    """

    alphas_cumprod: Float[Tensor, " steps"]

    def __init__(self, scheduler: Any):
        super().__init__()
        self.prediction: str = scheduler.config.prediction_type
        if self.prediction not in ("epsilon", "v_prediction"):
            raise InputError(f"prior.path: prediction type must be epsilon or v_prediction, got '{self.prediction}'")
        self.register_buffer("alphas_cumprod", scheduler.alphas_cumprod.clone().float())

    @property
    def length(self) -> int:
        """Number of time steps."""
        return len(self.alphas_cumprod)

    def coefficients(self, t: Times) -> tuple[Float[Tensor, "batch 1 1 1"], Float[Tensor, "batch 1 1 1"]]:
        """Return alpha = sqrt(alpha_bar) and sigma = sqrt(1 - alpha_bar).

        Args:
            t: Time steps.

        Returns:
            alpha and sigma, which broadcast over latents.
        """
        alpha_bar = self.alphas_cumprod[t][:, None, None, None]
        return alpha_bar.sqrt(), (1 - alpha_bar).sqrt()

    def add_noise(
        self,
        latents: Latents,
        noise: Latents,
        t: Times,
    ) -> Latents:
        """Return x_t = alpha x_0 + sigma eps.

        Args:
            latents: Clean latents x_0.
            noise: Standard normal noise eps.
            t: Time steps.

        Returns:
            Noisy latents x_t.
        """
        alpha, sigma = self.coefficients(t)
        return alpha * latents + sigma * noise

    def noise_from(
        self,
        output: Latents,
        noisy: Latents,
        t: Times,
        prediction: str | None = None,
    ) -> Latents:
        """Convert a network's output to the predicted noise.

        The noise is the output itself if the network predicts eps, and alpha v + sigma x_t if it predicts v.

        Args:
            output: Output of the network.
            noisy: Noisy latents x_t.
            t: Time steps.
            prediction: Prediction type of the network; defaults to the scheduler's type.

        Returns:
            The predicted noise eps.
        """
        if (prediction or self.prediction) == "epsilon":
            return output
        alpha, sigma = self.coefficients(t)
        return alpha * output + sigma * noisy

    def output_from(
        self,
        noise: Latents,
        noisy: Latents,
        t: Times,
        prediction: str | None = None,
    ) -> Latents:
        """Convert predicted noise to a network's output. This is the inverse of `noise_from`.

        The output is eps itself, or v = (eps - sigma x_t) / alpha.

        Args:
            noise: Predicted noise eps.
            noisy: Noisy latents x_t.
            t: Time steps.
            prediction: Prediction type of the network; defaults to the scheduler's type.

        Returns:
            The output of a network that predicts this noise.
        """
        if (prediction or self.prediction) == "epsilon":
            return noise
        alpha, sigma = self.coefficients(t)
        return (noise - sigma * noisy) / alpha

    def target(
        self,
        latents: Latents,
        noise: Latents,
        t: Times,
        prediction: str | None = None,
    ) -> Latents:
        """Return the training target of a network, which is eps or v = alpha eps - sigma x_0.

        Args:
            latents: Clean latents x_0.
            noise: Standard normal noise eps.
            t: Time steps.
            prediction: Prediction type of the network; defaults to the scheduler's type.

        Returns:
            Target of the network's output.
        """
        if (prediction or self.prediction) == "epsilon":
            return noise
        alpha, sigma = self.coefficients(t)
        return alpha * noise - sigma * latents


def classifier_free(
    unconditional: Float[Tensor, "*shape"], conditional: Float[Tensor, "*shape"], scale: float
) -> Float[Tensor, "*shape"]:
    """Combine two predictions by classifier-free guidance (Ho & Salimans, arXiv 2207.12598).

    Args:
        unconditional: Prediction without the text.
        conditional: Prediction with the text.
        scale: Guidance scale; 1 gives the conditional prediction.

    Returns:
        The guided prediction, unconditional + scale * (conditional - unconditional).
    """
    return unconditional + scale * (conditional - unconditional)
