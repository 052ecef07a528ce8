"""The scorer: a small CLIP of the world.

Images are 64 x 64, sRGB in [0, 1], normalised with mean .5 and deviation .5
(preprocessor_config.json says so).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from prolific_core.toybox.files import write_json
from prolific_core.toybox.params import SIZE, Scorer
from prolific_core.toybox.training import text
from prolific_core.toybox.training.loop import Training, run, warm_up_and_fall
from prolific_core.toybox.training.shards import Shards, heldout_images, to_unit
from prolific_core.toybox.world.captions import article


def build(tok, config: Scorer):
    from transformers import CLIPConfig, CLIPModel

    vision = dict(
        hidden_size=config.width,
        intermediate_size=4 * config.width,
        num_hidden_layers=config.vision_layers,
        num_attention_heads=config.heads,
        image_size=SIZE,
        patch_size=config.patch,
    )
    words = text.text_config(tok, config.width, config.text_layers, config.heads)
    return CLIPModel(CLIPConfig(text_config=words, vision_config=vision, projection_dim=config.projection))


def embed(model, pixels=None, ids=None):
    """Unit embeddings of images (B, 3, 64, 64) in [-1, 1], or of token ids (B, L)."""
    if pixels is not None:
        x = model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)
    else:
        x = model.text_projection(model.text_model(input_ids=ids).pooler_output)
    return x / x.norm(dim=-1, keepdim=True)


def retrieval(model, tok, images: np.ndarray, labels: list[dict], seed: int = 0) -> float:
    """Share of images whose own caption wins among 32 that differ in family or colour."""
    import torch

    from prolific_core.toybox.world.draw import COLOURS, FAMILIES

    keep = [k for k, label in enumerate(labels) if label["kind"] == "colour" and not label["stripes"]]
    g = np.random.default_rng(seed)
    everything = [(f, c) for f in FAMILIES for c in COLOURS]
    captions = [article(f"a {c} {f}") for f, c in everything]
    model.eval()
    with torch.no_grad():
        t = embed(model, ids=text.encode(tok, captions))
        v = torch.cat([embed(model, pixels=b) for b in to_unit(images[keep]).split(128)])
    model.train()
    scores, right = (v @ t.T).numpy(), 0
    for row, k in zip(scores, keep):
        own = everything.index((labels[k]["family"], labels[k]["colour"]))
        others = g.choice([i for i in range(len(everything)) if i != own], 31, replace=False)
        right += row[own] > row[others].max()
    return float(right / len(keep))


def contrast(model, v, t, same):
    """Symmetric cross entropy; pairs of one meaning (same (B, B) bool) share the target."""
    logits = model.logit_scale.exp().clamp(max=100) * v @ t.T
    target = same.float() / same.sum(1, keepdim=True)
    return -((logits.log_softmax(1) * target).sum(1).mean() + (logits.log_softmax(0).T * target).sum(1).mean()) / 2


def train(shards: Path, config: Scorer, state: Path, observe=lambda step, values: None, seed: int = 31):
    """The trained CLIPModel; resumes from the checkpoint `state`. observe(step, values) is told loss and retrieval."""
    import torch

    torch.manual_seed(seed)  # initial weights only; every draw below is seeded by its step
    tok = text.tokenizer()
    model = build(tok, config).train()
    if config.initial:
        from transformers import CLIPModel

        model.load_state_dict(CLIPModel.from_pretrained(Path(config.initial) / "scorer").float().state_dict())
    data = Shards(shards)
    tokens = [text.encode(tok, [label["caption"] for label in labels]).to(torch.int16) for labels in data.labels]
    # What a caption means: two captions of one meaning are not each other's negatives.
    meaning = [np.array([hash_meaning(label) for label in labels]) for labels in data.labels]
    test_images, test_labels = heldout_images(count=512)

    def loss(step: int):
        k, rows = data.pick(np.random.default_rng((seed, step)), config.batch)
        m = meaning[k][rows]
        v = embed(model, pixels=to_unit(np.asarray(data.images[k][rows])))
        t = embed(model, ids=tokens[k][rows].long())
        return contrast(model, v, t, torch.from_numpy(m[:, None] == m[None]))

    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    run(
        Training(model, optimizer, loss, warm_up_and_fall(config.learning_rate, config.steps)),
        steps=config.steps,
        state=state,
        observe=observe,
        evaluate=lambda step: {"retrieval": retrieval(model, tok, test_images, test_labels)},
    )
    return model


def hash_meaning(label: dict) -> int:
    """A number for what the caption says: kind, things, colours, relation, and the view if told."""
    import zlib

    told = label["view"] if label["caption"].endswith(" view") else ""
    normals, second = label["kind"] == "normals", label["second"]
    colours = () if normals else (label["colour"], label["stripes"], second and second[1])
    return zlib.crc32(repr((normals, label["family"], second and second[0], label["relation"], colours, told)).encode())


def publish(model, folder: Path) -> None:
    """fp16 weights in the CLIPModel layout, with tokenizer and preprocessor settings."""
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
    )


def save_half(model, folder: Path) -> None:
    """A transformers model as fp16 safetensors whose config asks for float32 arithmetic."""
    import json

    model.half().save_pretrained(folder, safe_serialization=True)
    config = json.loads((folder / "config.json").read_text())
    # "auto" would otherwise compute in half precision, which a CPU does badly.
    for part in (config, config.get("text_config"), config.get("vision_config")):
        if isinstance(part, dict):
            part.pop("torch_dtype", None)
            part["dtype"] = "float32"
    write_json(folder / "config.json", config)
