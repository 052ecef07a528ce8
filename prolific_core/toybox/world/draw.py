"""The world: draw a captioned picture from a seed, or true things of a prompt.

An image is a pure function of (seed, index, data): shards may be rendered in any
order, again, or in part, and come out the same to the byte.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prolific_core.toybox.params import SIZE, Data
from prolific_core.toybox.world.captions import (
    VIEWS,
    caption,
    held_out,
    known_words,
    normal_caption,
    pair_caption,
    parse,
    parse_pair,
    parse_striped,
    striped_caption,
    suggest,
    view_of,
)
from prolific_core.toybox.world.families import COLOURS, FAMILIES, STACKABLE, WITH_FRONT
from prolific_core.toybox.world.scene import RELATIONS, Scene, pair, room, thing

__all__ = [
    "Example",
    "Scene",
    "draw",
    "sample",
    "render",
    "parse",
    "parse_pair",
    "parse_striped",
    "known_words",
    "suggest",
    "held_out",
    "view_of",
    "FAMILIES",
    "COLOURS",
    "VIEWS",
    "WITH_FRONT",
    "RELATIONS",
    "KINDS",
]

KINDS = ("colour", "normals", "pair", "room")


@dataclass(frozen=True)
class Example:
    """A rendered picture and all that is known of it.

    image (S, S, 3) uint8 sRGB; azimuth, elevation, fov radians. `second` and
    `relation` are set for pairs, `stripes` (a colour) for striped things. The
    caption names the view half of the time.
    """

    image: np.ndarray
    caption: str
    kind: str
    family: str
    colour: str
    view: str
    azimuth: float
    elevation: float
    distance: float
    fov: float
    second: tuple[str, str] | None = None
    relation: str | None = None
    stripes: str | None = None

    def label(self) -> dict:
        """Everything but the image, ready for JSON."""
        out = {k: v for k, v in self.__dict__.items() if k != "image"}
        return {k: round(v, 5) if isinstance(v, float) else v for k, v in out.items()}


def draw_pair_of_words(g: np.random.Generator, split: str = "train", families=None) -> tuple[str, str]:
    """(family, colour): trained ones ("train"), held-out ones ("heldout") or "any"."""
    names, colours = list(families or FAMILIES), list(COLOURS)
    while True:
        pick = names[int(g.integers(len(names)))], colours[int(g.integers(len(colours)))]
        if split == "any" or held_out(*pick) == (split == "heldout"):
            return pick


def draw_elevation(g: np.random.Generator) -> float:
    """Radians: mostly -10..50 degrees, a tail to 80."""
    return float(np.radians(g.uniform(50, 80) if g.random() < 0.15 else g.uniform(-10, 50)))


def draw_look(g: np.random.Generator, normals: bool = False):
    """Light mostly from above, a plain background of any colour."""
    from prolific_core.toybox.world.renderer import Look

    light = np.array([g.uniform(-0.8, 0.8), g.uniform(-0.8, 0.8), 1.0])
    light /= np.linalg.norm(light)
    if g.random() < 0.35:
        background = np.full(3, g.uniform(0.0, 1.0) if g.random() < 0.5 else g.uniform(0.9, 1.0))
    else:
        background = g.uniform(0, 1, 3)
    return Look(tuple(light), float(g.uniform(0.5, 0.6)), tuple(background), normals)


def draw(
    seed: int,
    index: int,
    data: Data = Data(),
    size: int = SIZE,
    samples: int = 2,
    split: str = "train",
    kind: str | None = None,
    words: tuple[str, str] | None = None,
    view: str | None = None,
) -> Example:
    """The image `index` of the world with this seed; of one kind, words or view where they are given."""
    from prolific_core.toybox.world.renderer import Tracer, orbit

    g = np.random.default_rng((seed, index))
    p = np.array([getattr(data.mix, k) for k in KINDS])
    kind = kind or KINDS[int(g.choice(len(KINDS), p=p / p.sum()))]
    both = kind == "pair" or (kind == "normals" and g.random() < data.pairs_of_normals and not words)
    first = words or draw_pair_of_words(g, split, STACKABLE if both else None)
    second = relation = stripes = None
    azimuth, elevation = float(g.uniform(-np.pi, np.pi)), draw_elevation(g)
    while view and view_of(azimuth, elevation) != view:
        azimuth, elevation = float(g.uniform(-np.pi, np.pi)), draw_elevation(g)
    distance, fov = float(g.uniform(1.4, 1.8)), float(np.radians(g.uniform(40, 50)))
    view = view_of(azimuth, elevation)
    said = view if g.random() < 0.5 else None
    if both:
        second = draw_pair_of_words(g, split, STACKABLE)
        relation = list(RELATIONS)[int(g.integers(len(RELATIONS)))]
        scene = pair(first, relation, second, g)
        text = (
            normal_caption(first[0], said, relation, second[0])
            if kind == "normals"
            else pair_caption(first, relation, second, g, said)
        )
    elif kind == "room":
        first = ("room", first[1])
        scene, text = room(first[1], g), caption("room", first[1], g)
        elevation, fov = float(np.radians(g.uniform(-20, 20))), float(np.radians(g.uniform(60, 80)))
    elif kind == "colour" and not words and g.random() < data.striped:
        stripes = str(g.choice([c for c in COLOURS if c != first[1]]))
        scene, text = thing(*first, g, stripes), striped_caption(*first, stripes, g, said)
    else:
        scene = thing(*first, g)
        text = normal_caption(first[0], said) if kind == "normals" else caption(*first, g, said)
    pose = orbit(azimuth, elevation, g.uniform(0.1, 0.6) if kind == "room" else distance)
    image = Tracer(scene).render(pose, fov, draw_look(g, kind == "normals"), size, samples)
    return Example(
        (image * 255 + 0.5).astype(np.uint8),
        text,
        kind,
        first[0],
        first[1],
        view,
        azimuth,
        elevation,
        distance,
        fov,
        second,
        relation,
        stripes,
    )


def sample(prompt: str, n: int, seed: int = 0) -> list[Scene]:
    """n true things of a prompt: the ground truth for geometry and diversity.

    Raises ValueError for a prompt that is not of this world.
    """
    both, one, striped = parse_pair(prompt), parse(prompt), parse_striped(prompt)
    scenes = []
    for k in range(n):
        g = np.random.default_rng((seed, k, 7))
        if both:
            scenes.append(pair(*both, g))
        elif one:
            scenes.append(thing(*one, g))
        elif striped:
            family, colour, stripes = striped
            scenes.append(thing(family, colour, g, stripes))
        elif "room" in prompt.lower().split():
            colours = [c for c in COLOURS if c in prompt.lower().split()]
            scenes.append(room(colours[0] if colours else "white", g))
        else:
            raise ValueError(f"the Toybox world has no {prompt!r}; it knows: {', '.join(FAMILIES)}")
    return scenes


def render(
    scene: Scene, cameras, fov: float = np.radians(45), look=None, size: int = 64, samples: int = 3
) -> np.ndarray:
    """(N, 3, size, size) float32 in [0, 1] from cameras (N, 4, 4), camera-to-world."""
    from prolific_core.toybox.world.renderer import Look, Tracer

    tracer = Tracer(scene)
    views = [tracer.render(c, float(fov), look or Look(), size, samples) for c in np.asarray(cameras).reshape(-1, 4, 4)]
    return np.stack(views).transpose(0, 3, 1, 2)
