"""Training of the scorer, a small CLIP model of the Toybox world.

Its inputs are sRGB images of 64 x 64 pixels, normalised with mean 0.5 and standard deviation 0.5 as specified in
preprocessor_config.json.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from prolific_core.files import write_json
from prolific_core.toybox.params import SIZE, ScorerConfig
from prolific_core.toybox.training import text
from prolific_core.toybox.training.loop import Training, run, warm_up_and_decay
from prolific_core.toybox.training.publish import save_half
from prolific_core.toybox.training.shards import Shards, heldout_images, to_unit
from prolific_core.toybox.world.captions import article
from prolific_core.toybox.world.families import COLOURS, FAMILIES


def build(text_encoder: Any, config: ScorerConfig) -> Any:
    """Build a small CLIP model with a frozen text encoder.

    The recipe is that of LiT (Zhai et al., arXiv 2111.07991) with the roles of image and text exchanged.

    Args:
        text_encoder: Trained CLIPTextModel, whose weights are copied.
        config: Parameters of the model.

    Returns:
        A `transformers.CLIPModel` whose other weights are random.
    """
    from transformers import CLIPConfig, CLIPModel

    vision = {
        "hidden_size": config.width,
        "intermediate_size": 4 * config.width,
        "num_hidden_layers": config.layers,
        "num_attention_heads": config.heads,
        "image_size": SIZE,
        "patch_size": config.patch,
    }
    words = text_encoder.config.to_dict()
    model = CLIPModel(CLIPConfig(text_config=words, vision_config=vision, projection_dim=config.projection))
    # Some versions of transformers nest the text encoder one level deeper.
    weights = {name.removeprefix("text_model."): value for name, value in text_encoder.state_dict().items()}
    model.text_model.load_state_dict(weights)
    model.text_model.requires_grad_(False)
    return model


def embed_images(model: Any, pixels: Float[Tensor, "batch 3 64 64"]) -> Float[Tensor, "batch projection"]:
    """Embed images.

    Args:
        model: CLIPModel.
        pixels: sRGB in [-1, 1].

    Returns:
        Embeddings of unit norm.
    """
    x = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    return x / x.norm(dim=-1, keepdim=True)


def embed_texts(model: Any, ids: Int[Tensor, "batch length"]) -> Float[Tensor, "batch projection"]:
    """Embed texts.

    Args:
        model: CLIPModel.
        ids: Token ids of the texts.

    Returns:
        Embeddings of unit norm.
    """
    x = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    return x / x.norm(dim=-1, keepdim=True)


def retrieval(
    model: Any, tok: Any, images: UInt8[np.ndarray, "batch 64 64 3"], labels: list[dict], seed: int = 0
) -> float:
    """Compute the fraction of images whose own caption has the highest score among 32 captions.

    The other 31 captions are sampled at random and differ in family or colour.

    Args:
        model: CLIPModel, which is left in training mode.
        tok: Tokenizer of the model.
        images: Images; only those of a single coloured object without stripes are used.
        labels: Labels of the images.
        seed: Seed for sampling the other captions.

    Returns:
        The retrieval accuracy, in [0, 1].
    """
    keep = [k for k, label in enumerate(labels) if label["kind"] == "colour" and not label["stripes"]]
    g = np.random.default_rng(seed)
    everything = [(f, c) for f in FAMILIES for c in COLOURS]
    captions = [article(f"a {c} {f}") for f, c in everything]
    model.eval()
    with torch.no_grad():
        t = embed_texts(model, text.encode(tok, captions))
        v = torch.cat([embed_images(model, b) for b in to_unit(images[keep]).split(128)])
    model.train()
    scores, right = (v @ t.T).numpy(), 0
    for row, k in zip(scores, keep):
        own = everything.index((labels[k]["family"], labels[k]["colour"]))
        others = g.choice([i for i in range(len(everything)) if i != own], 31, replace=False)
        right += row[own] > row[others].max()
    return float(right / len(keep))


def contrast(
    model: Any,
    v: Float[Tensor, "batch projection"],
    t: Float[Tensor, "batch projection"],
    same: Bool[Tensor, "batch batch"],
) -> Float[Tensor, ""]:
    """Compute the symmetric cross entropy of CLIP (Radford et al., arXiv 2103.00020, fig. 3).

    Args:
        model: CLIPModel that provides the logit scale.
        v: Embeddings of the images.
        t: Embeddings of the captions of the images.
        same: Mask of pairs whose captions have the same meaning; the target probability is divided among them.

    Returns:
        The mean of the losses from images to captions and from captions to images.
    """
    logits = model.logit_scale.exp().clamp(max=100) * v @ t.T
    target = same.float() / same.sum(1, keepdim=True)
    return -((logits.log_softmax(1) * target).sum(1).mean() + (logits.log_softmax(0).T * target).sum(1).mean()) / 2


def train(
    shards: Path,
    text_encoder: Any,
    config: ScorerConfig,
    state: Path,
    observe: Callable[[int, dict], None] = lambda step, values: None,
    seed: int = 31,
) -> Any:
    """Train the scorer, or resume its training.

    Args:
        shards: Folder of the rendered shards.
        text_encoder: Trained CLIPTextModel, which is not changed.
        config: Parameters of the scorer and its training.
        state: Path of the checkpoint. Training resumes from it if it exists.
        observe: Callback that receives the step and its metrics: loss, learning rate and retrieval.
        seed: Seed of the initial weights and of the random numbers of all steps.

    Returns:
        The trained `transformers.CLIPModel`.
    """
    torch.manual_seed(seed)  # This affects only the initial weights, because each step seeds its own generator.
    tok = text.tokenizer()
    model = build(text_encoder, config).train()
    if config.initial:
        from transformers import CLIPModel

        initial = CLIPModel.from_pretrained(Path(config.initial) / "scorer").float().state_dict()
        own = {name: value for name, value in initial.items() if not name.startswith("text_model.")}
        model.load_state_dict(own, strict=False)
    data = Shards(shards)
    tokens = [text.encode(tok, [label["caption"] for label in labels]).to(torch.int16) for labels in data.labels]
    # Captions with the same meaning must not be negative examples of each other.
    meaning = [np.array([hash_meaning(label) for label in labels]) for labels in data.labels]
    test_images, test_labels = heldout_images(count=512)

    def loss(step: int) -> Tensor:
        k, rows = data.pick(np.random.default_rng((seed, step)), config.batch)
        m = meaning[k][rows]
        v = embed_images(model, to_unit(np.asarray(data.images[k][rows])))
        t = embed_texts(model, tokens[k][rows].long())
        return contrast(model, v, t, torch.from_numpy(m[:, None] == m[None]))

    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.05, fused=True)
    run(
        Training(model, optimizer, loss, warm_up_and_decay(config.learning_rate, config.steps)),
        steps=config.steps,
        state=state,
        observe=observe,
        evaluate=lambda step: {"retrieval": retrieval(model, tok, test_images, test_labels)},
    )
    return model


def hash_meaning(label: dict) -> int:
    """Hash the meaning of a caption.

    The meaning consists of the kind, objects, colours and relation, and of the view if the caption names it.

    Args:
        label: Label of an image; see `Example.label`.

    Returns:
        The hash, which is equal for captions with the same meaning.
    """
    named = label["view"] if label["caption"].endswith(" view") else ""
    normals, second = label["kind"] == "normals", label["second"]
    colours = () if normals else (label["colour"], label["stripes"], second and second[1])
    return zlib.crc32(
        repr((normals, label["family"], second and second[0], label["relation"], colours, named)).encode()
    )


def publish(model: Any, folder: Path) -> None:
    """Write a model folder that a CLIPModel can load.

    The folder contains the weights in half precision, the tokenizer and the preprocessor settings.

    Args:
        model: CLIPModel, which is converted to half precision in place.
        folder: Folder to write to.
    """
    save_half(model, folder)
    text.save(text.tokenizer(), folder)
    write_json(
        folder / "preprocessor_config.json",
        {
            "image_processor_type": "CLIPImageProcessor",
            "do_resize": True,
            "size": {"shortest_edge": 64},
            "do_center_crop": True,
            "crop_size": {"height": 64, "width": 64},
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": [0.5, 0.5, 0.5],
            "image_std": [0.5, 0.5, 0.5],
            "resample": 2,
            "do_convert_rgb": True,
        },
        indent=1,
    )
