"""Grammar of the captions that the Toybox was trained on, so that other prompts are noticed before hours of work.

Importing this module does not import torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from prolific_core.prior.location import TOYBOX
from prolific_core.toybox.world.captions import KEEP, WORDINGS, article, suggest
from prolific_core.toybox.world.families import COLOURS, FAMILIES, STACKABLE, TRAITS
from prolific_core.toybox.world.scene import RELATIONS
from prolific_core.view_names import HEIGHTS, SIDES, VIEWS

#: Variants of the families that have any; `families.py` draws one of them for each object.
VARIANTS = {
    family: TRAITS[2 * k : 2 * k + 2]
    for k, family in enumerate(("chair", "table", "house", "tree", "snowman", "mushroom"))
}
#: Common words for what the Toybox has another word for.
SYNONYMS = {
    "ball": "sphere orb globe marble",
    "cube": "box block dice crate",
    "cylinder": "can barrel drum column pillar",
    "cone": "pyramid",
    "ring": "torus donut doughnut hoop",
    "mug": "cup beaker tankard",
    "chair": "stool seat armchair throne",
    "table": "desk",
    "house": "home hut cottage cabin building",
    "tree": "oak pine fir",
    "mushroom": "toadstool fungus",
    "rocket": "spaceship missile",
    "car": "automobile taxi vehicle",
    "lamp": "lantern light",
    "teapot": "kettle pot",
    "boat": "ship yacht sailboat",
    "plane": "aeroplane airplane aircraft jet",
    "red": "crimson scarlet maroon",
    "yellow": "gold golden",
    "blue": "navy cyan azure turquoise teal",
    "purple": "violet lilac magenta",
    "brown": "wooden tan beige",
    "gray": "silver metallic",
    "on": "atop onto",
    "next to": "beside",
}
# The prompts of the demo, for prompts that name no colour or no family.
_DEFAULT_COLOURS = dict(KEEP)
_DEFAULT_FAMILY = "mushroom"
_VIEW_NAMES = (*SIDES, *VIEWS)
_RELATION_NAMES = ("on top of", *RELATIONS)
_STRIPED = ("a {c} {f} with {d} stripes", "a {c} and {d} striped {f}")


def is_closed(path: str) -> bool:
    """Return whether a prior was trained on captions of the Toybox world only.

    A prior of one's own is recognised by its tokenizer.

    Args:
        path: Path of the prior, as in `PriorConfig.path`.

    Returns:
        False for every other prior, such as Stable Diffusion, and for models that are not on this machine.
    """
    if path == "toybox":
        return True
    own, toybox = (folder / "tokenizer/vocab.json" for folder in (Path(path).expanduser(), TOYBOX))
    return own.is_file() and toybox.is_file() and own.read_bytes() == toybox.read_bytes()


def is_known(text: str) -> bool:
    """Return whether a prompt is one of the captions that the Toybox was trained on.

    Articles, commas, capital letters and a full stop at the end do not matter.

    Args:
        text: Any text.

    Returns:
        False if the text has an unknown word or another order of words, or combines what no image showed, such as a
        mug with a chimney.
    """
    words = " ".join(_words(text))
    for pattern in _patterns():
        if found := pattern.fullmatch(words):
            trait = found.groupdict().get("trait")
            return not trait or trait in _plain(VARIANTS.get(found["f"], ()))
    return False


def unknown_words(text: str) -> list[str]:
    """Return the words of a prompt that no caption contains, and its symbols other than punctuation.

    Args:
        text: Any text.

    Returns:
        The words in lower case.
    """
    words = _words(text)
    symbols = {word for word in words if not re.fullmatch(r"[a-z0-9]+", word)}
    rest = re.sub(rf"\b({'|'.join(_plain(TRAITS))})\b", "", " ".join(word for word in words if word not in symbols))
    unknown = symbols.union(suggest(rest)[0])
    return [word for word in dict.fromkeys(words) if word in unknown]


def nearest(text: str) -> str:
    """Return a caption that the Toybox was trained on and that says as much as possible of a prompt.

    Unknown words are replaced by known words with the same meaning or a similar spelling.

    Args:
        text: Any text.

    Returns:
        The caption, for example "a red mug" for "a mug red" or "a crimson cup".
    """
    words = f" {' '.join(_known_word(word) for word in _words(text))} "
    words = re.sub(r" on (?=\w+ background )", " ", words)
    background, words = _take(words, [f" {colour} background " for colour in COLOURS])
    height, words = _take(words, [f" {height} angle " for height in HEIGHTS])
    view, words = _take(words, [f" {view} view " for view in _VIEW_NAMES])
    details = (f", {view}" if view else "") + (f", seen from a {height}" if height else "")
    placed = f", on a {background}" if background else ""
    traits = {plain: trait for trait in TRAITS for plain in _plain([trait])}
    trait = traits.get(_take(words, [f" {plain} " for plain in traits])[0] or "")
    families, colours = _found(words, (*FAMILIES, "room")), _found(words, COLOURS)
    family = families[0] if families else _DEFAULT_FAMILY
    colour = colours[0] if colours else _DEFAULT_COLOURS.get(family, "blue")
    named = f" {trait}" if trait in VARIANTS.get(family, ()) else ""
    if "room" in families:
        caption = f"a {colour} room"
    elif pair := _nearest_pair(words):
        caption = f"{pair}{details}{placed}"
    elif " normal map " in words:
        caption = f"a normal map of a {family}{named}{details}"
    elif re.search(" striped | stripes ", words):
        stripes = next(other for other in (*colours, "white", "red") if other != colour)
        caption = f"a {colour} {family} with {stripes} stripes{details}{placed}"
    else:
        caption = f"a {colour} {family}{named}{details}{placed}"
    return article(caption)


def explain(text: str) -> str | None:
    """Return why a prompt is not known, and the nearest prompt that is.

    Args:
        text: Any text.

    Returns:
        A sentence without a full stop, or None if the prompt is known.
    """
    if is_known(text):
        return None
    example = f'the nearest prompt that it knows is "{nearest(text)}"'
    if unknown := unknown_words(text):
        shown = [repr(word[:30]) for word in unknown[:5]] + (["others"] if len(unknown) > 5 else [])
        listed = " and ".join([", ".join(shown[:-1]), shown[-1]] if len(shown) > 1 else shown)
        return f"the prior does not know {listed}; {example}"
    if not _found(" ".join(_words(text)), (*COLOURS, "grey")):
        return f"the prompt names no colour, and the prior was trained on prompts that do; {example}"
    return f"the prior was not trained on prompts of this form; {example}"


def vocabulary() -> dict[str, list[str]]:
    """Return all words and phrases of the captions, by kind.

    Returns:
        Lists of words and phrases.
    """
    return {
        "families": list(FAMILIES),
        "colours": list(COLOURS),
        "relations": list(_RELATION_NAMES),
        "families in relations": list(STACKABLE),
        "variants": [f"{family} {trait}" for family, traits in VARIANTS.items() for trait in traits],
        "views": [f"{view} view" for view in (*VIEWS, *SIDES)],
        "heights": [f"seen from a {height} angle" for height in HEIGHTS],
    }


def _words(text: str) -> list[str]:
    """Return the words of a text without its articles, and every symbol as a word of its own."""
    words = re.findall(r"\w+|[^\w\s,]", re.sub(r"\s*\.\s*$", "", text.lower()))
    return [word for word in words if word not in ("a", "an", "the")]


def _plain(phrases: Iterable[str]) -> list[str]:
    return [" ".join(_words(phrase)) for phrase in phrases]


@cache
def _patterns() -> list[re.Pattern[str]]:
    """Return patterns that match all captions without their articles and commas."""
    fields = {
        "{f}": f"(?P<f>{'|'.join(FAMILIES)})",
        "{s}": f"(?:{'|'.join(STACKABLE)})",
        "{c}": f"(?:{'|'.join(COLOURS)}|grey)",
        "{d}": f"(?:{'|'.join(COLOURS)}|grey)",
        "{r}": f"(?:{'|'.join(_RELATION_NAMES)})",
        "{trait}": f"(?: (?P<trait>{'|'.join(_plain(TRAITS))}))?",
        "{view}": f"(?: (?:{'|'.join(_VIEW_NAMES)}) view)?(?: seen from (?:{'|'.join(HEIGHTS)}) angle)?",
        "{back}": f"(?: on (?:{'|'.join(COLOURS)}|grey) background)?",
    }
    wordings = [wording for wording, _ in WORDINGS]
    templates = [
        *(f"{wording}{{trait}}{{view}}{{back}}" for wording in wordings),
        *(f"{wording}{{view}}{{back}}" for wording in _STRIPED),
        "a {c} {s} {r} a {c} {s}{view}{back}",
        "a normal map of a {f}{trait}{view}",
        "a normal map of a {s} {r} a {s}{view}",
        *(wording.replace("{f}", "room") for wording in wordings),
    ]
    found = []
    for template in templates:
        pattern = re.sub(r"\ba (?=[{a-z0-9])", "", template)
        for name, choices in fields.items():
            pattern = pattern.replace(name, choices)
        found.append(re.compile(pattern))
    return found


@cache
def _meanings() -> dict[str, str]:
    """Return the known word for each word that `nearest` understands."""
    own = {word: word for word in (*FAMILIES, *COLOURS, "room", "background", "striped", "stripes")}
    return own | {"grey": "gray"} | {word: name for name, words in SYNONYMS.items() for word in words.split()}


def _known_word(word: str) -> str:
    if word in _meanings() or not unknown_words(word):
        return _meanings().get(word, word)
    similar = difflib.get_close_matches(word, _meanings(), n=1, cutoff=0.8)
    return _meanings()[similar[0]] if similar else word


def _take(words: str, phrases: list[str]) -> tuple[str | None, str]:
    """Return the first of the phrases that occurs in a text, and the text without it."""
    found = next((phrase for phrase in phrases if phrase in words), None)
    return (found.strip(), words.replace(found, " ", 1)) if found else (None, words)


def _found(words: str, names: Iterable[str]) -> list[str]:
    return [word for word in words.split() if word in names]


def _nearest_pair(words: str) -> str | None:
    """Return the caption of two objects, or None if the text does not relate two objects that may be related."""
    for relation in sorted(RELATIONS, key=len, reverse=True):
        halves = words.replace(" on top of ", " on ").split(f" {relation} ")
        families = [_found(f"{half} ", FAMILIES) for half in halves]
        if len(halves) == 2 and all(some and some[0] in STACKABLE for some in families):
            objects = []
            for half, some in zip(halves, families):
                colour = next(iter(_found(half, COLOURS)), _DEFAULT_COLOURS.get(some[0], "blue"))
                objects.append(f"a {colour} {some[0]}")
            return f" {relation} ".join(objects)
    return None
