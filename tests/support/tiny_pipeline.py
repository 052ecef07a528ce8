"""Tiny random model in the StableDiffusionPipeline layout, for tests that need no trained weights."""

import json
from pathlib import Path

import torch

WORDS = [
    "a",
    "red",
    "blue",
    "green",
    "mug",
    "chair",
    "mushroom",
    "of",
    "normal",
    "map",
    "front",
    "side",
    "back",
    "overhead",
    "view",
    ",",
    "photo",
]


def make(
    folder: Path,
    *,
    prediction: str = "epsilon",
    seed: int = 0,
    sample_size: int = 8,
    latent_channels: int = 4,
    width: int = 32,
    dtype: torch.dtype = torch.float32,
) -> Path:
    """Write unet, vae, text_encoder, tokenizer, scheduler and a scorer, and return the folder."""
    from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
    from transformers import CLIPConfig, CLIPModel, CLIPTextConfig, CLIPTextModel

    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        unet = UNet2DConditionModel(
            sample_size=sample_size,
            in_channels=latent_channels,
            out_channels=latent_channels,
            block_out_channels=(width, width),
            layers_per_block=1,
            down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
            cross_attention_dim=width,
            attention_head_dim=2,
            norm_num_groups=8,
        )
        vae = AutoencoderKL(
            block_out_channels=(8, 8, 16),
            down_block_types=("DownEncoderBlock2D",) * 3,
            up_block_types=("UpDecoderBlock2D",) * 3,
            latent_channels=latent_channels,
            layers_per_block=1,
            norm_num_groups=4,
            sample_size=sample_size * 4,
        )
        vocabulary = _tokenizer(folder / "tokenizer")
        text = {
            "vocab_size": vocabulary,
            "hidden_size": width,
            "intermediate_size": width * 2,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "max_position_embeddings": 20,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 1,
        }
        encoder = CLIPTextModel(CLIPTextConfig(**text))
        vision = {
            "hidden_size": width,
            "intermediate_size": width * 2,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
        }
        scorer = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=width))
    scheduler = DDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type=prediction,
        clip_sample=False,
        set_alpha_to_one=False,
    )
    for name, part in {
        "unet": unet,
        "vae": vae,
        "text_encoder": encoder,
        "scheduler": scheduler,
        "scorer": scorer,
    }.items():
        (part.to(dtype) if isinstance(part, torch.nn.Module) else part).save_pretrained(folder / name)
    _tokenizer(folder / "scorer")
    (folder / "scorer" / "preprocessor_config.json").write_text(
        json.dumps({"image_mean": [0.5] * 3, "image_std": [0.5] * 3})
    )
    index = {
        "_class_name": "StableDiffusionPipeline",
        "_diffusers_version": "0.36.0",
        "unet": ["diffusers", "UNet2DConditionModel"],
        "vae": ["diffusers", "AutoencoderKL"],
        "text_encoder": ["transformers", "CLIPTextModel"],
        "tokenizer": ["transformers", "CLIPTokenizer"],
        "scheduler": ["diffusers", "DDIMScheduler"],
        "safety_checker": [None, None],
        "feature_extractor": [None, None],
        "requires_safety_checker": False,
    }
    (folder / "model_index.json").write_text(json.dumps(index, indent=2))
    return folder


def _tokenizer(folder: Path) -> int:
    """Write a CLIP tokenizer whose vocabulary is single characters, and return the size of the vocabulary."""
    folder.mkdir(parents=True, exist_ok=True)
    letters = sorted({letter for word in WORDS for letter in word} | set("abcdefghijklmnopqrstuvwxyz0123456789"))
    tokens = ["<|startoftext|>", "<|endoftext|>", *letters, *(letter + "</w>" for letter in letters)]
    (folder / "vocab.json").write_text(json.dumps({token: index for index, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 20, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return len(tokens)
