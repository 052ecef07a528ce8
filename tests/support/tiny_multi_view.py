"""Tiny random multi-view model in the manner of MVDream, for tests that need no trained weights."""

import json
from pathlib import Path

import torch

from tests.support import tiny_pipeline

WIDTH = 32


def make(folder: Path, *, prediction: str = "epsilon", seed: int = 0) -> Path:
    """Write the parts of `tiny_pipeline` with a U-Net that takes cameras, and return the folder."""
    from diffusers import UNet2DConditionModel

    folder = tiny_pipeline.make(folder, prediction=prediction, seed=seed, width=WIDTH)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(WIDTH, WIDTH),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=WIDTH,
            attention_head_dim=2,
            norm_num_groups=8,
            class_embed_type="projection",
            projection_class_embeddings_input_dim=16,
        )
    unet.save_pretrained(folder / "unet")
    index = json.loads((folder / "model_index.json").read_text()) | {"_class_name": "MVDreamPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder
