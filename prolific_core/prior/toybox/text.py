"""The tokenizer: CLIP's kind, with one token for every word of the world.

BPE merges are learned on the known words until each is whole; any other text
falls back to bytes, so nothing a user types is lost or unknown.
"""

from __future__ import annotations

import json
from pathlib import Path

from prolific_core.files import write_atomically

from .captions import known_words

BOS, EOS = "<|startoftext|>", "<|endoftext|>"


def learn() -> tuple[dict[str, int], list[tuple[str, str]]]:
    """(vocabulary, merges) from the known words; the same on every machine."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = [w for w in known_words() for w in ([w] if w.isalpha() else list(w))]
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=100_000, min_frequency=1, show_progress=False, initial_alphabet=alphabet,
                                  end_of_word_suffix="</w>")
    tokenizer.train_from_iterator(words, trainer)
    merges = [tuple(m) if isinstance(m, list) else tuple(m.split(" ")) for m in json.loads(tokenizer.to_str())["model"]["merges"]]
    vocabulary = {token: k for k, token in enumerate(alphabet + [a + "</w>" for a in alphabet])}
    for left, right in merges:
        vocabulary.setdefault(left + right, len(vocabulary))
    for token in (BOS, EOS):
        vocabulary[token] = len(vocabulary)
    return vocabulary, merges


TOKENS = 20


def tokenizer(length: int = TOKENS):
    """A `transformers.CLIPTokenizer`."""
    from transformers import CLIPTokenizer

    vocabulary, merges = learn()
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=length)


def save(tok, folder: Path) -> None:
    """In the files every version of transformers reads: vocab, merges and settings."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    tok.save_pretrained(folder)
    vocabulary, merges = learn()
    write_atomically(folder / "vocab.json", json.dumps(vocabulary, ensure_ascii=False).encode())
    write_atomically(folder / "merges.txt", ("#version: 0.2\n" + "\n".join(" ".join(m) for m in merges) + "\n").encode())


def encode(tok, texts: list[str]):
    """Token ids (B, length) int64, padded and cut."""
    return tok(texts, padding="max_length", truncation=True, max_length=tok.model_max_length, return_tensors="pt").input_ids


def text_config(tok, width: int, layers: int, heads: int) -> dict:
    """Arguments of a CLIPTextConfig for this tokenizer."""
    return dict(
        vocab_size=len(tok), hidden_size=width, intermediate_size=4 * width, num_hidden_layers=layers,
        num_attention_heads=heads, max_position_embeddings=tok.model_max_length, projection_dim=width,
        bos_token_id=tok.bos_token_id, eos_token_id=tok.eos_token_id, pad_token_id=tok.pad_token_id,
    )
