"""CLIP tokenizer with one token for every word of the Toybox world.

Its byte-pair merges were learned on the known words until each word was a single token. The merges are stored in
vocabulary/, because learning them again could change the token ids, on which the weights depend. Unknown words are
tokenized as bytes, so no input is lost.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from jaxtyping import Int
from torch import Tensor

from prolific_core.files import write_atomically

TOKENS = 32  # Number of tokens to which captions are padded or truncated.
VOCABULARY = Path(__file__).parents[1] / "vocabulary"


def learned() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Load the vocabulary and the merges of the tokenizer.

    Returns:
        The id of each token, and the pairs of tokens to merge, in order of priority.
    """
    lines = (VOCABULARY / "merges.txt").read_text().splitlines()[1:]
    merges = [(first, second) for first, second in (line.split(" ") for line in lines)]
    return json.loads((VOCABULARY / "vocab.json").read_text()), merges


def tokenizer(length: int = TOKENS) -> Any:
    """Build the tokenizer.

    Args:
        length: Number of tokens to which captions are padded or truncated.

    Returns:
        A `transformers.CLIPTokenizer`.
    """
    from transformers import CLIPTokenizer

    vocabulary, merges = learned()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)  # pyright: ignore[reportArgumentType]


def save(tok: Any, folder: Path) -> None:
    """Write a tokenizer in a format that every version of transformers can load.

    The vocabulary, the merges and the settings are written to separate files.

    Args:
        tok: Tokenizer.
        folder: Folder to write to.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tok.save_pretrained(folder)
    for name in ("vocab.json", "merges.txt"):
        write_atomically(folder / name, (VOCABULARY / name).read_bytes())


def encode(tok: Any, texts: list[str]) -> Int[Tensor, "batch length"]:
    """Tokenize texts.

    Args:
        tok: Tokenizer.
        texts: Captions.

    Returns:
        Token ids, padded or truncated to the maximum length of the tokenizer.
    """
    return tok(
        texts, padding="max_length", truncation=True, max_length=tok.model_max_length, return_tensors="pt"
    ).input_ids


def text_config(tok: Any, width: int, layers: int, heads: int) -> dict[str, Any]:
    """Return the keyword arguments of a CLIPTextConfig for a tokenizer.

    Args:
        tok: Tokenizer.
        width: Width of the text encoder.
        layers: Number of layers of the text encoder.
        heads: Number of attention heads of the text encoder.

    Returns:
        The arguments by name.
    """
    return {
        "vocab_size": len(tok),
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "max_position_embeddings": tok.model_max_length,
        "projection_dim": width,
        "bos_token_id": tok.bos_token_id,
        "eos_token_id": tok.eos_token_id,
        "pad_token_id": tok.pad_token_id,
    }
