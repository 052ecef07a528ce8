"""The tokenizer: CLIP's kind, with one token for every word of the world.

BPE merges were learned once on the known words until each was whole (they are
kept in vocabulary/: learning them again breaks ties in another order, and weights
know their words by number). Any other text falls back to bytes, so nothing a
user types is lost or unknown.
"""

from __future__ import annotations

import json
from pathlib import Path

from prolific_core.files import write_atomically

TOKENS = 20  # a caption's length, padded or cut
VOCABULARY = Path(__file__).parents[1] / "vocabulary"


def learned() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges)."""
    merges = (VOCABULARY / "merges.txt").read_text().splitlines()[1:]
    return json.loads((VOCABULARY / "vocab.json").read_text()), [tuple(line.split(" ")) for line in merges]


def tokenizer(length: int = TOKENS):
    """A `transformers.CLIPTokenizer`."""
    from transformers import CLIPTokenizer

    vocabulary, merges = learned()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def save(tok, folder: Path) -> None:
    """In the files every version of transformers reads: vocab, merges and settings."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tok.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        write_atomically(folder / name, (VOCABULARY / name).read_bytes())


def encode(tok, texts: list[str]):
    """Token ids (B, length) int64, padded and cut."""
    return tok(
        texts, padding="max_length", truncation=True, max_length=tok.model_max_length, return_tensors="pt"
    ).input_ids


def text_config(tok, width: int, layers: int, heads: int) -> dict:
    """Arguments of a CLIPTextConfig for this tokenizer."""
    return dict(
        vocab_size=len(tok),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=tok.model_max_length,
        projection_dim=width,
        bos_token_id=tok.bos_token_id,
        eos_token_id=tok.eos_token_id,
        pad_token_id=tok.pad_token_id,
    )
