"""Stable Diffusion 1.5, 2.1 and XL in their true shapes on the meta device, where tensors have no values."""

import weakref
from collections.abc import Iterable
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from unittest import mock

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

from prolific_core.prior.latent_diffusion import LatentDiffusion
from prolific_core.prior.latent_diffusion_xl import LatentDiffusionXL

SHARED = {"in_channels": 4, "out_channels": 4, "layers_per_block": 2, "norm_num_groups": 32}
UNETS = {
    "sd15": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": 8,
        "cross_attention_dim": 768,
    },
    "sd21": {
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "attention_head_dim": (5, 10, 20, 20),
        "cross_attention_dim": 1024,
        "use_linear_projection": True,
    },
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 6 * 256 + 1280,
    },
}


def build(name: str, dtype: torch.dtype) -> LatentDiffusion:
    """Build a model without values, with its text encoder left out."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(**SHARED, **UNETS[name])
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
        )
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    for part in (unet, vae):
        nn.Module.to(part, dtype)
    parts, rows = (unet, vae, nn.Identity(), None, scheduler), 77
    if name == "sdxl":
        second, rows = nn.Identity(), 78  # one more for the pooled embedding
        second.config = SimpleNamespace(projection_dim=1280)
        model = LatentDiffusionXL(*parts, second, None)
    else:
        model = LatentDiffusion(*parts)
    model.schedule.to("meta")
    width = UNETS[name]["cross_attention_dim"]
    model.embed = lambda texts: torch.empty(len(texts), rows, width, device="meta", dtype=dtype)
    return model


@contextmanager
def without_values():
    """Replace what needs values, or what the meta device lacks: reads by the host, fused Adam, and fused attention."""

    class AdamW(torch.optim.AdamW):
        def __init__(self, *arguments, fused=None, **options):
            super().__init__(*arguments, **options)

    def attention(q, k, v, attn_mask=None, dropout_p=0.0, is_causal=False, scale=None, **options):
        return torch.ops.aten._scaled_dot_product_flash_attention(q, k, v, scale=scale)[0]  # as on a GPU

    replaced = [
        mock.patch.object(torch.Tensor, "tolist", lambda self: [1.0] * self.numel()),
        mock.patch.object(torch.optim, "AdamW", AdamW),
        mock.patch.object(nn.functional, "scaled_dot_product_attention", attention),
    ]
    with ExitStack() as stack:
        for one in replaced:
            stack.enter_context(one)
        yield


class PeakMemory(TorchDispatchMode):
    """Count the bytes of all tensors on the meta device that are alive, as an allocator on a GPU would.

    Args:
        tensors: Tensors that were created before, such as weights.

    Attributes:
        live: Bytes that are in use now.
        peak: The largest value of `live` so far.
    """

    def __init__(self, tensors: Iterable[torch.Tensor]):
        super().__init__()
        self.live = self.peak = 0
        self._storages: dict[int, weakref.ref] = {}
        for tensor in tensors:
            self._add(tensor)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        tree_map_only(torch.Tensor, self._add, result)
        return result

    def _add(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if tensor.device.type != "meta" or key in self._storages:
            return

        def drop(_) -> None:
            del self._storages[key]
            self.live -= size

        self._storages[key] = weakref.ref(storage, drop)
        self.live += size
        self.peak = max(self.peak, self.live)
