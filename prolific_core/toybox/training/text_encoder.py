"""Training of the text encoder on captions alone.

A U-Net that is trained together with its text encoder spends its first hours on the words. The text encoder is
therefore trained first, as in Stable Diffusion: linear heads predict from its output what a caption says. The U-Net and
the scorer are then trained with the frozen text encoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from prolific_core.errors import InputError
from prolific_core.toybox.params import TextConfig
from prolific_core.toybox.training import text
from prolific_core.toybox.training.loop import Training, run, warm_up_and_decay
from prolific_core.toybox.training.shards import Shards
from prolific_core.toybox.world.details import Details, choose, describe
from prolific_core.toybox.world.draw import KINDS, RELATIONS
from prolific_core.toybox.world.families import COLOURS, FAMILIES, TRAITS
from prolific_core.view_names import HEIGHTS, SIDES, VIEWS

#: Values of the attributes that a caption can state. Class 0 stands for a caption that does not state the attribute.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "kind": KINDS,
    "family": (*FAMILIES, "room"),
    "colour": tuple(COLOURS),
    "stripes": tuple(COLOURS),
    "relation": tuple(RELATIONS),
    "second_family": tuple(FAMILIES),
    "second_colour": tuple(COLOURS),
    "trait": TRAITS,
    "view": (*VIEWS, *SIDES),
    "height": HEIGHTS,
    "background": tuple(COLOURS),
}


def attributes(label: dict, details: Details) -> list[int]:
    """Return the attributes that the caption of an image states.

    Args:
        label: Label of the image; see `draw.Example.label`.
        details: Details that the caption names.

    Returns:
        The class of each attribute in `ATTRIBUTES`: 1 plus the index of its value, or 0 if it is not stated.
    """
    second = label["second"] or (None, None)
    coloured = label["kind"] != "normals"
    stated = {
        "kind": label["kind"],
        "family": label["family"],
        "colour": label["colour"] if coloured else None,
        "stripes": label["stripes"],
        "relation": label["relation"],
        "second_family": second[0],
        "second_colour": second[1] if coloured else None,
        "trait": details.trait,
        "view": details.view,
        "height": details.height,
        "background": details.background,
    }
    return [1 + values.index(stated[name]) if stated[name] else 0 for name, values in ATTRIBUTES.items()]


def build(config: TextConfig, tok: Any) -> Any:
    """Build a CLIP text encoder.

    Args:
        config: Parameters of the text encoder.
        tok: Tokenizer.

    Returns:
        A `transformers.CLIPTextModel` with random weights.
    """
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(CLIPTextConfig(**text.text_config(tok, config.width, config.layers, config.heads)))


class CaptionClassifier(nn.Module):
    """Text encoder with linear heads that predict the attributes that a caption states.

    The heads read two vectors: the output at the end of the caption, and the mean output over all tokens, which trains
    the outputs that cross-attention reads.

    Args:
        encoder: CLIPTextModel.
    """

    def __init__(self, encoder: Any):
        super().__init__()
        self.encoder = encoder
        sizes = [1 + len(names) for names in ATTRIBUTES.values()]
        self.heads = nn.ModuleList([nn.Linear(encoder.config.hidden_size, sum(sizes)) for _ in range(2)])
        self.sizes = sizes

    def forward(self, ids: Int[Tensor, "batch length"]) -> list[tuple[Tensor, ...]]:
        """Predict the attributes of captions.

        Args:
            ids: Token ids.

        Returns:
            For each of the two vectors, the logits (batch, classes) of each attribute.
        """
        out = self.encoder(ids)
        vectors = (out.pooler_output, out.last_hidden_state.mean(1))
        return [head(vector).split(self.sizes, 1) for head, vector in zip(self.heads, vectors, strict=True)]


def captions_of(labels: Sequence[dict], g: np.random.Generator) -> tuple[list[str], Int[Tensor, "batch attributes"]]:
    """Write captions with random details, and list their attributes.

    Args:
        labels: Labels of images.
        g: Random number generator.

    Returns:
        The captions, and the classes that `attributes` returns.
    """
    details = [choose(label, g) for label in labels]
    targets = torch.tensor([attributes(label, named) for label, named in zip(labels, details, strict=True)])
    return [describe(label, named) for label, named in zip(labels, details, strict=True)], targets


def loss_of(
    classifier: CaptionClassifier, ids: Int[Tensor, "batch length"], targets: Int[Tensor, "batch attributes"]
) -> Float[Tensor, ""]:
    """Compute the sum of the cross entropies of all attributes, averaged over both vectors.

    Args:
        classifier: Text encoder with its heads.
        ids: Token ids of captions.
        targets: Classes of the attributes.

    Returns:
        The loss.
    """
    losses = [F.cross_entropy(head, targets[:, k]) for logits in classifier(ids) for k, head in enumerate(logits)]
    return torch.stack(losses).sum() / 2


def caption_accuracy(
    classifier: CaptionClassifier, ids: Int[Tensor, "batch length"], targets: Int[Tensor, "batch attributes"]
) -> float:
    """Compute the fraction of captions whose attributes are all predicted correctly.

    Args:
        classifier: Text encoder with its heads.
        ids: Token ids of captions.
        targets: Classes of the attributes.

    Returns:
        The smaller of the fractions of both vectors, in [0, 1].
    """
    with torch.no_grad():
        answers = [torch.stack([head.argmax(1) for head in logits], 1) for logits in classifier(ids)]
    return min(float((answer == targets).all(1).float().mean()) for answer in answers)


def train(
    shards: Path,
    config: TextConfig,
    state: Path,
    observe: Callable[[int, dict], None] = lambda step, values: None,
    seed: int = 41,
) -> Any:
    """Train the text encoder, or resume its training.

    Args:
        shards: Folder of the rendered shards, of which only the labels are used.
        config: Parameters of the text encoder and its training. If `config.initial` is set, the text encoder of that
            published model is returned unchanged, so that U-Nets trained with it can be trained further.
        state: Path of the checkpoint. Training resumes from it if it exists.
        observe: Callback that receives the step and its metrics: loss, learning rate and the fraction of held-out
            captions whose attributes are all predicted correctly.
        seed: Seed of the initial weights and of the random numbers of all steps.

    Returns:
        The trained `transformers.CLIPTextModel`.

    Raises:
        InputError: If the text encoder in `config.initial` does not fit the tokenizer.
    """
    tok = text.tokenizer()
    if config.initial:
        from transformers import CLIPTextModel

        encoder = CLIPTextModel.from_pretrained(Path(config.initial) / "text_encoder").float().eval()
        if (encoder.config.vocab_size, encoder.config.max_position_embeddings) != (len(tok), tok.model_max_length):
            raise InputError(
                f"text.initial: the text encoder of {config.initial} has another vocabulary or length of captions; "
                "set text.initial to null"
            )
        return encoder
    torch.manual_seed(seed)  # This affects only the initial weights, because each step seeds its own generator.
    classifier = CaptionClassifier(build(config, tok))
    labels = {split: [x for part in Shards(shards, (split,)).labels for x in part] for split in ("train", "heldout")}
    unseen, unseen_targets = captions_of(labels["heldout"][:1024], np.random.default_rng(seed))
    unseen_ids = text.encode(tok, unseen)

    def loss(step: int) -> Tensor:
        g = np.random.default_rng((seed, step))
        rows = g.integers(0, len(labels["train"]), config.batch)
        written, targets = captions_of([labels["train"][row] for row in rows], g)
        return loss_of(classifier, text.encode(tok, written), targets)

    optimizer = torch.optim.AdamW(classifier.parameters(), lr=config.learning_rate, betas=(0.9, 0.98), fused=True)
    run(
        Training(classifier, optimizer, loss, warm_up_and_decay(config.learning_rate, config.steps)),
        steps=config.steps,
        state=state,
        observe=observe,
        evaluate=lambda step: {"caption_accuracy": caption_accuracy(classifier, unseen_ids, unseen_targets)},
    )
    return classifier.encoder.eval()
