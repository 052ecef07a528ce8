"""Wording and parsing of captions, and the pairs of family and colour that are held out from training."""

from __future__ import annotations

import difflib
import hashlib
import re

import numpy as np

from prolific_core.toybox.world.families import COLOURS, FAMILIES, TRAITS
from prolific_core.toybox.world.scene import RELATIONS
from prolific_core.view_names import VIEWS

#: Words that later versions of the world may use. They are already in the vocabulary, because adding a word makes text
#: encoders that were trained before unusable.
SPARE = """
key guitar bed sofa bottle hat duck bench bus train fish bird cat dog star heart apple pear banana cup bowl
vase book clock door window wall floor flower cactus tower castle bridge sword hammer spoon fork plate pan
robot drum bell crown shoe box sphere torus pyramid toy object thing scene room inside wooden metal shiny
striped two tone stripes with small big tall short wide thin round dark light bright pale cyan teal gold
silver turquoise
""".split()  # noqa: SIM905
GLUE = """
a an the of and that is photo picture image render rendering model 3d normal map view , . on top under in
front behind left right next to beside seen from above below one some its made grey
background low medium high angle profile
""".split()  # noqa: SIM905

WORDINGS = (
    ("a {c} {f}", 0.5),
    ("{c} {f}", 0.12),
    ("a photo of a {c} {f}", 0.12),
    ("a {f} that is {c}", 0.1),
    ("a 3d model of a {c} {f}", 0.16),
)

#: Pairs of family and colour that are never held out, because the training set must contain the prompts of the demo.
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
    """Return whether a pair of family and colour is held out from the U-Net's training.

    About one pair in ten is held out, as determined by a fixed hash of the names.

    Args:
        family: Name of the family.
        colour: Name of the colour.

    Returns:
        True for a held-out pair.
    """
    if (family, colour) in KEEP:
        return False
    return hashlib.sha256(f"{family}/{colour}".encode()).digest()[0] % 10 == 0


def article(text: str) -> str:
    """Replace the article "a" with "an" before vowels.

    Args:
        text: Caption.

    Returns:
        The corrected caption.
    """
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _colour_word(colour: str, g: np.random.Generator) -> str:
    return "grey" if colour == "gray" and g.random() < 0.5 else colour


def caption(family: str, colour: str, g: np.random.Generator, view: str | None = None) -> str:
    """Return a randomly worded caption for one coloured object.

    Args:
        family: Name of the family.
        colour: Name of the colour.
        g: Random number generator.
        view: View that the caption names, or None to omit the view.

    Returns:
        The caption.
    """
    p = np.array([w for _, w in WORDINGS])
    text = WORDINGS[int(g.choice(len(p), p=p / p.sum()))][0]
    return with_view(article(text.format(c=_colour_word(colour, g), f=family)), view)


def striped_caption(family: str, colour: str, stripes: str, g: np.random.Generator, view: str | None = None) -> str:
    """Return a randomly worded caption for one object with horizontal stripes.

    Args:
        family: Name of the family.
        colour: Name of the main colour.
        stripes: Name of the stripes' colour.
        g: Random number generator.
        view: View that the caption names, or None to omit the view.

    Returns:
        The caption.
    """
    text = "a {c} {f} with {d} stripes" if g.random() < 0.5 else "a {c} and {d} striped {f}"
    return with_view(article(text.format(c=_colour_word(colour, g), d=_colour_word(stripes, g), f=family)), view)


def normal_caption(family: str, view: str | None = None, relation: str | None = None, second: str | None = None) -> str:
    """Return the caption of a normal map, which does not name a colour.

    Args:
        family: Name of the family.
        view: View that the caption names, or None to omit the view.
        relation: Relation of the object to a second one, or None for a single object.
        second: Family of the second object, or None for a single object.

    Returns:
        The caption.
    """
    objects = f"{family} {relation} a {second}" if relation else family
    return with_view(article(f"a normal map of a {objects}"), view)


def pair_caption(
    first: tuple[str, str], relation: str, second: tuple[str, str], g: np.random.Generator, view: str | None = None
) -> str:
    """Return a randomly worded caption for two objects.

    Args:
        first: Family and colour of the first object.
        relation: Relation of the first object to the second.
        second: Family and colour of the second object.
        g: Random number generator.
        view: View that the caption names, or None to omit the view.

    Returns:
        The caption.
    """
    (fa, ca), (fb, cb) = first, second
    word = "on top of" if relation == "on" and g.random() < 0.25 else relation
    text = f"a {_colour_word(ca, g)} {fa} {word} a {_colour_word(cb, g)} {fb}"
    return with_view(article(text), view)


def with_view(text: str, view: str | None) -> str:
    """Append a view to a caption.

    Args:
        text: Caption.
        view: View to append, or None to leave the caption unchanged.

    Returns:
        The caption, such as "a red mug, front view".
    """
    return f"{text}, {view} view" if view else text


def without_view(text: str) -> str:
    """Remove the view from the end of a caption.

    Args:
        text: Caption, which may end with a view as appended by `with_view`.

    Returns:
        The caption without the view.
    """
    return re.sub(rf", ({'|'.join(VIEWS)}) view$", "", text)


def known_words() -> list[str]:
    """Return all words that captions can contain.

    Returns:
        The words in alphabetical order.
    """
    words = set(FAMILIES) | set(COLOURS) | set(VIEWS) | set(SPARE) | set(GLUE)
    for phrase in (*RELATIONS, *TRAITS):
        words |= set(phrase.split())
    return sorted(words)


def _without_background(prompt: str) -> str:
    """Return a prompt in lower case without its background, whose colour is not that of an object."""
    return re.sub(r"\bon an? \w+ background\b", "", prompt.lower())


def _words(prompt: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", prompt.lower())


def _named(prompt: str) -> tuple[list[str], list[str], list[str]]:
    """Return the words of a prompt, and the families and the colours among them."""
    words = ["gray" if word == "grey" else word for word in _words(_without_background(prompt))]
    return words, [word for word in words if word in FAMILIES], [word for word in words if word in COLOURS]


def parse(prompt: str) -> tuple[str, str] | None:
    """Parse a prompt that describes one object.

    Args:
        prompt: Any text.

    Returns:
        Family and colour, or None if the text does not name exactly one of each.
    """
    _, families, colours = _named(prompt)
    return (families[0], colours[0]) if len(families) == 1 and len(colours) == 1 else None


def parse_striped(prompt: str) -> tuple[str, str, str] | None:
    """Parse a prompt that describes one striped object.

    Args:
        prompt: Any text.

    Returns:
        Family, main colour and colour of the stripes, or None if the text does not describe one striped object.
    """
    words, families, colours = _named(prompt)
    if len(families) == 1 and len(colours) == 2 and ("stripes" in words or "striped" in words):
        return families[0], colours[0], colours[1]
    return None


def parse_pair(prompt: str) -> tuple[tuple[str, str], str, tuple[str, str]] | None:
    """Parse a prompt that describes two objects.

    Args:
        prompt: Any text.

    Returns:
        Family and colour of the first object, the relation, and family and colour of the second object. The result is
        None if the text does not describe two objects.
    """
    text = _without_background(prompt).replace("grey", "gray").replace("on top of", "on").replace("beside", "next to")
    for relation in sorted(RELATIONS, key=len, reverse=True):
        halves = re.split(rf"\b{relation}\b", text)
        if len(halves) == 2:
            first, second = parse(halves[0]), parse(re.split(",", halves[1])[0])
            if first and second:
                return first, relation, second
    return None


def suggest(prompt: str) -> tuple[list[str], list[str]]:
    """Find the unknown words in a prompt and suggest known words to use instead.

    Args:
        prompt: Any text.

    Returns:
        The unknown words and the suggestions. The suggestions are known words with similar spelling, or all families if
        no known word is similar. Both lists are empty if every word is known.
    """
    known = set(FAMILIES) | set(COLOURS) | set(VIEWS) | set(GLUE) | {"room", "striped", "stripes", "with"}
    traits = re.compile(rf"\b({'|'.join(TRAITS)})\b")
    unknown = [w for w in dict.fromkeys(_words(traits.sub("", prompt.lower()))) if w not in known]
    near: list[str] = []
    for word in unknown:
        near += difflib.get_close_matches(word, sorted(set(FAMILIES) | set(COLOURS)), n=2, cutoff=0.75)
    if unknown and not near:
        near = list(FAMILIES)
    return unknown, list(dict.fromkeys(near))
