"""The language of the world: wordings, view words, parsing, held-out pairs."""

from __future__ import annotations

import difflib
import hashlib
import re

import numpy as np

from prolific_core.toybox.world.families import COLOURS, FAMILIES
from prolific_core.toybox.world.scene import RELATIONS

VIEWS = ("front", "side", "back", "overhead")

#: Words that later worlds may use: in the vocabulary now, so that the
#: tokenizer need not change and weights can be continued.
SPARE = (
    "key guitar bed sofa bottle hat duck bench bus train fish bird cat dog star heart apple pear banana cup "
    "bowl vase book clock door window wall floor flower cactus tower castle bridge sword hammer spoon fork plate "
    "pan robot drum bell crown shoe box sphere torus pyramid toy object thing scene room inside wooden metal "
    "shiny striped two tone stripes with small big tall short wide thin round dark light bright pale cyan teal gold silver turquoise"
).split()
GLUE = (
    "a an the of and that is photo picture image render rendering model 3d normal map view , . on top under in front "
    "behind left right next to beside seen from above below one some its made grey"
).split()

WORDINGS = (
    ("a {c} {f}", 0.5),
    ("{c} {f}", 0.12),
    ("a photo of a {c} {f}", 0.12),
    ("a {f} that is {c}", 0.1),
    ("a 3d model of a {c} {f}", 0.16),
)

#: Never held out: the demo's prompts must be in the training set.
KEEP = {
    ("mug", "red"),
    ("chair", "blue"),
    ("mushroom", "red"),
    ("house", "yellow"),
    ("car", "green"),
    ("snowman", "white"),
    ("table", "brown"),
}


def held_out(family: str, colour: str) -> bool:
    """Whether this pair is never trained on (about one in ten, by a fixed hash)."""
    if (family, colour) in KEEP:
        return False
    return hashlib.sha256(f"{family}/{colour}".encode()).digest()[0] % 10 == 0


def view_of(azimuth: float, elevation: float) -> str:
    """The view word of a camera at azimuth, elevation (radians)."""
    if elevation > np.radians(60):
        return "overhead"
    front = np.cos(azimuth)
    if front >= np.cos(np.radians(30)):
        return "front"
    return "back" if front <= -np.cos(np.radians(30)) else "side"


def article(text: str) -> str:
    """Repair "a orange" to "an orange"."""
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _colour_word(colour: str, g: np.random.Generator) -> str:
    return "grey" if colour == "gray" and g.random() < 0.5 else colour


def caption(family: str, colour: str, g: np.random.Generator, view: str | None = None) -> str:
    """A caption of one coloured thing."""
    p = np.array([w for _, w in WORDINGS])
    text = WORDINGS[int(g.choice(len(p), p=p / p.sum()))][0]
    return with_view(article(text.format(c=_colour_word(colour, g), f=family)), view)


def striped_caption(family: str, colour: str, stripes: str, g: np.random.Generator, view: str | None = None) -> str:
    """A caption of one thing with level stripes of a second colour."""
    text = "a {c} {f} with {d} stripes" if g.random() < 0.5 else "a {c} and {d} striped {f}"
    return with_view(article(text.format(c=_colour_word(colour, g), d=_colour_word(stripes, g), f=family)), view)


def normal_caption(family: str, view: str | None = None, relation: str | None = None, second: str | None = None) -> str:
    """A caption of a normal map, of one thing or of two: it names no colour."""
    things = f"{family} {relation} a {second}" if relation else family
    return with_view(article(f"a normal map of a {things}"), view)


def pair_caption(first, relation: str, second, g: np.random.Generator, view: str | None = None) -> str:
    (fa, ca), (fb, cb) = first, second
    word = "on top of" if relation == "on" and g.random() < 0.25 else relation
    text = f"a {_colour_word(ca, g)} {fa} {word} a {_colour_word(cb, g)} {fb}"
    return with_view(article(text), view)


def with_view(text: str, view: str | None) -> str:
    return f"{text}, {view} view" if view else text


def without_view(text: str) -> str:
    return re.sub(rf", ({'|'.join(VIEWS)}) view$", "", text)


def known_words() -> list[str]:
    """Every word of the world's language, sorted."""
    words = set(FAMILIES) | set(COLOURS) | set(VIEWS) | set(SPARE) | set(GLUE)
    for relation in RELATIONS:
        words |= set(relation.split())
    return sorted(words)


def _words(prompt: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", prompt.lower())


def parse(prompt: str) -> tuple[str, str] | None:
    """The (family, colour) a prompt of one thing names, or None."""
    words = ["gray" if w == "grey" else w for w in _words(prompt)]
    families = [w for w in words if w in FAMILIES]
    colours = [w for w in words if w in COLOURS]
    return (families[0], colours[0]) if len(families) == 1 and len(colours) == 1 else None


def parse_striped(prompt: str) -> tuple[str, str, str] | None:
    """The (family, colour, colour of the stripes) of a prompt of one striped thing, or None."""
    words = ["gray" if w == "grey" else w for w in _words(prompt)]
    families = [w for w in words if w in FAMILIES]
    colours = [w for w in words if w in COLOURS]
    if len(families) == 1 and len(colours) == 2 and ("stripes" in words or "striped" in words):
        return families[0], colours[0], colours[1]
    return None


def parse_pair(prompt: str):
    """((family, colour), relation, (family, colour)) of a two-object prompt, or None."""
    text = prompt.lower().replace("grey", "gray").replace("on top of", "on").replace("beside", "next to")
    for relation in sorted(RELATIONS, key=len, reverse=True):
        halves = re.split(rf"\b{relation}\b", text)
        if len(halves) == 2:
            first, second = parse(halves[0]), parse(re.split(",", halves[1])[0])
            if first and second:
                return first, relation, second
    return None


def suggest(prompt: str) -> tuple[list[str], list[str]]:
    """(unknown words of the prompt, known words to use instead).

    For an unknown word the nearest spellings are offered; where none is near,
    the families. Both lists are empty when every word is known.
    """
    taught = set(FAMILIES) | set(COLOURS) | set(VIEWS) | set(GLUE) | {"room", "striped", "stripes", "with"}
    unknown = [w for w in dict.fromkeys(_words(prompt)) if w not in taught]
    near: list[str] = []
    for word in unknown:
        near += difflib.get_close_matches(word, sorted(set(FAMILIES) | set(COLOURS)), n=2, cutoff=0.75)
    if unknown and not near:
        near = list(FAMILIES)
    return unknown, list(dict.fromkeys(near))
