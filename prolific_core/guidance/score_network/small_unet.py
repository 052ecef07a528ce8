"""Small separate U-Net as a score network, for use if LoRA is too expensive or starts too close to the prior.

The U-Net predicts v, and its last layer is initialised to zero. Since v = 0 implies eps = sigma x_t, it initially
represents x_0 ~ N(0, I), which matches the scale of the latents. LoRA initially represents the prior instead. The
initial score_gain is therefore above 1. The network is conditioned on camera and time but not on text, since a run has
only one prompt.
"""

from typing import cast

import torch
from torch import Tensor, nn

from prolific_core.config import ScoreConfig
from prolific_core.prior.latent_diffusion import UNet

PREDICTION = "v_prediction"


class SmallScoreUNet:
    """U-Net whose parameters are all trained. Its constructor seeds torch's global generator.

    Args:
        base: The prior's U-Net, which determines shape, device and precision.
        config: Parameters of the score network.
        generator: Source of the seed of the initial weights.

    Attributes:
        unet: The U-Net to call.
        parameters: The trained parameters by name.
        merged: Always empty; see `Lora.merged`.
    """

    def __init__(self, base: UNet, config: ScoreConfig, generator: torch.Generator):
        from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel

        channels = tuple(config.channels)
        # diffusers draws the initial weights from the global generator.
        seed = int(torch.randint(2**62, (1,), generator=generator))
        torch.manual_seed(seed)  # pyright: ignore[reportUnknownMemberType]
        unet = cast(
            UNet,
            UNet2DConditionModel(
                sample_size=base.config.sample_size,
                in_channels=base.config.in_channels,
                out_channels=base.config.out_channels,
                block_out_channels=channels,
                layers_per_block=1,
                down_block_types=("DownBlock2D",) * len(channels),
                mid_block_type="UNetMidBlock2D",
                up_block_types=("UpBlock2D",) * len(channels),
                norm_num_groups=8,
            ),
        )
        for parameter in unet.conv_out.parameters():
            nn.init.zeros_(parameter)
        if base.is_gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        # Call torch's `to`, because diffusers' `to` warns about float32 layers, which this U-Net does not have.
        nn.Module.to(unet, base.device, torch.promote_types(torch.float32, base.dtype))
        self.unet = unet
        self.merged: list[Tensor] = []
        self.parameters = {f"unet.{name}": parameter for name, parameter in self.unet.named_parameters()}

    def refresh(self) -> None:
        """Do nothing, because no tensor is derived from the parameters."""
