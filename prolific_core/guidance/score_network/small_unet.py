"""A small U-Net of q's own, where LoRA on the prior costs too much or starts too close to it.

It predicts v and its last layer starts at zero: v = 0 is eps = sigma x_t, the score of x_0 ~ N(0, I),
which is what latents are scaled to. So q starts as that broad Gaussian and not, as LoRA does, as the
prior, and its score_gain starts above 1. It sees camera and time but no text: a run has one prompt.
"""

import torch
from torch import nn

from prolific_core.config import ScoreConfig

PREDICTION = "v_prediction"


class SmallScoreUNet:
    """`unet`, to be called like the prior's, and `parameters`, all of it, by name. Seeds the global generator."""

    def __init__(self, base: nn.Module, config: ScoreConfig, generator: torch.Generator):
        from diffusers import UNet2DConditionModel

        channels = config.channels
        torch.manual_seed(
            int(torch.randint(2**62, (1,), generator=generator))
        )  # diffusers draws from the global generator
        unet = UNet2DConditionModel(
            sample_size=base.config.sample_size,
            in_channels=base.config.in_channels,
            out_channels=base.config.out_channels,
            block_out_channels=channels,
            layers_per_block=1,
            down_block_types=("DownBlock2D",) * len(channels),
            mid_block_type="UNetMidBlock2D",
            up_block_types=("UpBlock2D",) * len(channels),
            norm_num_groups=8,
        )
        with torch.no_grad():
            unet.conv_out.weight.zero_()
            unet.conv_out.bias.zero_()
        if base.is_gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        # torch's own `to`: that of diffusers warns of layers to be kept in float32, of which there are none.
        self.unet = nn.Module.to(unet, base.device, torch.promote_types(torch.float32, base.dtype))
        self.merged: list[torch.Tensor] = []
        self.parameters = {f"unet.{name}": parameter for name, parameter in self.unet.named_parameters()}

    def changed(self) -> None:
        """Nothing is kept beside the parameters."""
