"""Tiny random model in the StableDiffusionXLPipeline layout, for tests that need no trained weights."""

import json
from pathlib import Path

import torch

from tests.support import tiny_pipeline

WIDTH, PROJECTION, TIME_WIDTH = 32, 24, 8


def make(folder: Path, *, prediction: str = "epsilon", seed: int = 0) -> Path:
    """Write the parts of `tiny_pipeline`, another U-Net, and a second text encoder, and return the folder."""
    from diffusers import UNet2DConditionModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    folder = tiny_pipeline.make(folder, prediction=prediction, seed=seed, width=WIDTH)
    vocabulary = tiny_pipeline._tokenizer(folder / "tokenizer_2")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed + 1)
        unet = UNet2DConditionModel(
            sample_size=8,
            in_channels=4,
            out_channels=4,
            block_out_channels=(WIDTH, WIDTH),
            layers_per_block=1,
            down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
            up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
            transformer_layers_per_block=(1, 2),
            cross_attention_dim=2 * WIDTH,
            attention_head_dim=2,
            norm_num_groups=8,
            use_linear_projection=True,
            addition_embed_type="text_time",
            addition_time_embed_dim=TIME_WIDTH,
            projection_class_embeddings_input_dim=6 * TIME_WIDTH + PROJECTION,
        )
        config = CLIPTextConfig(
            vocab_size=vocabulary,
            hidden_size=WIDTH,
            intermediate_size=2 * WIDTH,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=20,
            projection_dim=PROJECTION,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
        encoder = CLIPTextModelWithProjection(config)
    unet.save_pretrained(folder / "unet")
    encoder.save_pretrained(folder / "text_encoder_2")
    index = json.loads((folder / "model_index.json").read_text())
    index |= {
        "_class_name": "StableDiffusionXLPipeline",
        "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
        "tokenizer_2": ["transformers", "CLIPTokenizer"],
        "image_encoder": [None, None],
        "force_zeros_for_empty_prompt": True,
    }
    del index["safety_checker"], index["requires_safety_checker"]
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder
