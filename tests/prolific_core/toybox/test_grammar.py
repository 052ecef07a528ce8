"""The grammar accepts every caption of the training, and names the nearest one for any other text."""

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from prolific_core.toybox import grammar
from prolific_core.toybox.training import text as tokenizer
from prolific_core.toybox.world import captions, details
from prolific_core.toybox.world.families import COLOURS, FAMILIES, STACKABLE
from prolific_core.toybox.world.scene import RELATIONS, single_object
from prolific_core.view_names import HEIGHTS, SIDES, VIEWS
from tests.conftest import ROOT
from tests.support import tiny_pipeline


def some_caption(g: np.random.Generator) -> str:
    """Return a caption as `draw.draw` and `details.describe` word them."""

    def one(names) -> str:
        return str(g.choice(list(names)))

    kind, family, colour, other = g.integers(5), one(FAMILIES), one(COLOURS), one(COLOURS)
    trait = one(grammar.VARIANTS.get(family, [""]))
    if kind == 0:
        text = captions.caption(family, colour, g)
    elif kind == 1:
        text, trait = captions.striped_caption(family, colour, other, g), ""
    elif kind == 2:
        text, other = captions.normal_caption(family), None
    elif kind == 3:
        first, second = (one(STACKABLE), colour), (one(STACKABLE), other)
        text, trait = captions.pair_caption(first, one(RELATIONS), second, g), ""
    else:
        return captions.caption("room", colour, g)
    named = details.Details(
        trait if g.random() < 0.5 else "",
        one([*VIEWS, *SIDES]) if g.random() < 0.5 else None,
        one(HEIGHTS) if g.random() < 0.5 else None,
        one(COLOURS) if other and g.random() < 0.5 else None,
    )
    return details.describe({"caption": text}, named)


def test_every_caption_is_known_and_its_own_words_are_kept():
    g = np.random.default_rng(0)
    for _ in range(1000):
        text = some_caption(g)
        assert grammar.is_known(text) and grammar.explain(text) is None, text
        assert grammar.unknown_words(text) == []
        assert grammar.is_known(grammar.nearest(text))
        assert captions.parse(grammar.nearest(text)) == captions.parse(text), text
        assert captions.parse_pair(grammar.nearest(text)) == captions.parse_pair(text), text


def test_the_captions_of_renders_are_known():
    from prolific_core.toybox.world import draw as world

    g = np.random.default_rng(1)
    for k in range(60):
        label = world.draw(11, k, size=8, samples=1).label()
        text = details.describe(label, details.choose(label, g))
        assert grammar.is_known(text), text


def test_the_variants_are_those_that_the_families_draw():
    for family in FAMILIES:
        found = {single_object(family, "red", np.random.default_rng(seed)).trait for seed in range(12)} - {""}
        assert found == set(grammar.VARIANTS.get(family, ())), family


@pytest.mark.parametrize("text", ["Red mug", "A red mug.", "a orange mug", "red mug on blue cube", "The  red mug"])
def test_articles_and_capital_letters_do_not_matter(text):
    assert grammar.explain(text) is None


@pytest.mark.parametrize(
    ("text", "nearest"),
    [
        ("a mug red", "a red mug"),
        ("a mug", "a red mug"),
        ("a crimson cup", "a red mug"),
        ("two orange mugs", "an orange mug"),
        ("a greeen chiar", "a green chair"),
        ("a big red mug", "a red mug"),
        ("a red mug beside a blue cube", "a red mug next to a blue cube"),
        ("a mug on a cube", "a red mug on a blue cube"),
        ("a red chair on a blue table", "a red chair"),
        ("a red chair with a hat", "a red chair"),
        ("a white snowman on a grey background with hat", "a white snowman with a hat, on a gray background"),
        ("a striped mug", "a red mug with white stripes"),
        ("a blue room, front view", "a blue room"),
        ("a white living room", "a white room"),
        ("a DSLR photo of a corgi", "a red mushroom"),
        ("", "a red mushroom"),
    ],
)
def test_the_nearest_prompt_says_as_much_as_possible(text, nearest):
    assert not grammar.is_known(text)
    assert grammar.nearest(text) == nearest


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a DSLR photo of a corgi", "does not know 'dslr' and 'corgi'; the nearest"),
        ("a red mug 🍄", "does not know '🍄'"),
        ("one two three four five six seven eight", "and others; the nearest"),
        ("a mug", "names no colour"),
        ("a mug red", 'not trained on prompts of this form; the nearest prompt that it knows is "a red mug"'),
        ("a red chair with a hat", "prompts of this form"),
    ],
)
def test_the_reason_is_named(text, said):
    assert said in (grammar.explain(text) or "")


WORDS = sorted({word for phrases in grammar.vocabulary().values() for phrase in phrases for word in phrase.split()})
MORE = [*WORDS, *" ".join(grammar.SYNONYMS.values()).split(), "a", "room", "striped", "stripes", "normal map",
        "background", "corgi", "-", "!"]  # fmt: skip


@settings(max_examples=500, deadline=None, database=None, derandomize=True)
@given(st.lists(st.sampled_from(MORE), max_size=12).map(" ".join) | st.text(max_size=60))
def test_the_nearest_prompt_is_known_whatever_is_typed(text):
    assert grammar.is_known(grammar.nearest(text))
    assert (grammar.explain(text) is None) == grammar.is_known(text)


def test_every_listed_word_is_in_the_vocabulary_of_the_tokenizer():
    tokens, _ = tokenizer.learned()
    assert {f"{word}</w>" for word in WORDS} <= set(tokens)


def test_priors_with_the_tokenizer_of_the_toybox_have_its_vocabulary(tmp_path):
    own = tmp_path / "own"
    (own / "tokenizer").mkdir(parents=True)
    (own / "model_index.json").write_text("{}")
    (own / "tokenizer" / "vocab.json").write_bytes((tokenizer.VOCABULARY / "vocab.json").read_bytes())
    other = tiny_pipeline.make(tmp_path / "other")
    assert grammar.is_closed("toybox") and grammar.is_closed(str(own))
    assert not grammar.is_closed(str(other)) and not grammar.is_closed("stabilityai/stable-diffusion-2-1-base")


def test_the_grammar_is_read_without_torch():
    code = "import sys\nfrom prolific_core.toybox import grammar\ngrammar.explain('a corgi')\n"
    done = subprocess.run([sys.executable, "-c", f"{code}sys.exit('torch' in sys.modules)"], cwd=ROOT)
    assert done.returncode == 0
