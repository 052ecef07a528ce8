"""Sampling of captioned images and of true objects that match a prompt.

An image is a pure function of the seed, its index and the parameters. Shards can therefore be rendered in any order and
always have the same bytes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from prolific_core.toybox.params import SIZE, RenderConfig
from prolific_core.toybox.world.captions import (
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
)
from prolific_core.toybox.world.details import nearest_colour
from prolific_core.toybox.world.families import COLOURS, FAMILIES, STACKABLE, WITH_FRONT
from prolific_core.toybox.world.scene import DEFAULT_LOOK, RELATIONS, Look, Scene, pair, room, single_object
from prolific_core.view_names import VIEWS, view_of

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
DEFAULT = RenderConfig()


@dataclass(frozen=True)
class Example:
    """A rendered image with its caption and labels.

    Attributes:
        image: sRGB image.
        caption: Caption; about half of all captions name the view.
        kind: One of `KINDS`.
        family: Family of the object or of the first of two objects; "room" for a room.
        colour: Colour of the object, of the first of two objects, or of the walls of a room.
        view: One of `VIEWS`.
        azimuth: Angle of the camera from the front, in radians.
        elevation: Angle of the camera above the horizontal plane, in radians.
        distance: Distance of the camera from the origin.
        fov: Vertical field of view, in radians.
        second: Family and colour of the second object, if any.
        relation: Relation of the first object to the second, if any.
        stripes: Colour of the stripes, if any.
        trait: Words for the variant of a single object without stripes, such as "with a hat"; may be empty.
        background: Name of the colour nearest to the background's, or None if the image has no coloured background.
    """

    image: UInt8[np.ndarray, "size size 3"]
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
    trait: str = ""
    background: str | None = None

    def label(self) -> dict:
        """Return all attributes except the image as values that can be written to a JSON file.

        Returns:
            Values by attribute name. Floats are rounded to five decimals.
        """
        out = {k: v for k, v in self.__dict__.items() if k != "image"}
        return {k: round(v, 5) if isinstance(v, float) else v for k, v in out.items()}


def draw_pair_of_words(
    g: np.random.Generator, split: str = "train", families: Iterable[str] | None = None
) -> tuple[str, str]:
    """Sample a pair of family and colour.

    Args:
        g: Random number generator.
        split: "train" for the pairs that the U-Net is trained on, "heldout" for the held-out pairs, or "any".
        families: Families to sample from; all by default.

    Returns:
        Family and colour.
    """
    names, colours = list(families or FAMILIES), list(COLOURS)
    while True:
        pick = names[int(g.integers(len(names)))], colours[int(g.integers(len(colours)))]
        if split == "any" or held_out(*pick) == (split == "heldout"):
            return pick


def draw_elevation(g: np.random.Generator) -> float:
    """Sample an elevation from [-10, 50] degrees or, with a probability of 0.15, from [50, 80] degrees.

    Args:
        g: Random number generator.

    Returns:
        The elevation in radians.
    """
    return float(np.radians(g.uniform(50, 80) if g.random() < 0.15 else g.uniform(-10, 50)))


def draw_look(g: np.random.Generator, normals: bool = False) -> Look:
    """Sample a light that shines from above and a background of a single random colour.

    Args:
        g: Random number generator.
        normals: Whether the image is a normal map.

    Returns:
        The light and the background.
    """
    light = np.array([g.uniform(-0.8, 0.8), g.uniform(-0.8, 0.8), 1.0])
    light /= np.linalg.norm(light)
    if g.random() < 0.35:
        background = np.full(3, g.uniform(0.0, 1.0) if g.random() < 0.5 else g.uniform(0.9, 1.0))
    else:
        background = g.uniform(0, 1, 3)
    x, y, z = light
    red, green, blue = background
    return Look((x, y, z), float(g.uniform(0.5, 0.6)), (red, green, blue), normals)


def draw(
    seed: int,
    index: int,
    data: RenderConfig = DEFAULT,
    size: int = SIZE,
    samples: int | None = None,
    split: str = "train",
    kind: str | None = None,
    words: tuple[str, str] | None = None,
    view: str | None = None,
) -> Example:
    """Sample and render one image of the world.

    Args:
        seed: Seed of the data set.
        index: Index of the image in the data set.
        data: Parameters of the data set.
        size: Height and width of the image, in pixels.
        samples: Number of rays per pixel along each image axis; `data.samples` by default.
        split: "train" for the pairs of family and colour that the U-Net is trained on, "heldout" for the held-out
            pairs, or "any".
        kind: One of `KINDS`; sampled according to `data.mix` by default.
        words: Family and colour; sampled by default.
        view: One of `VIEWS`; sampled by default.

    Returns:
        The image with its caption and labels.
    """
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
    distance, fov = float(g.uniform(*data.distance)), float(np.radians(g.uniform(*data.fov)))
    view = view_of(azimuth, elevation)
    named = view if g.random() < 0.5 else None
    if both:
        second = draw_pair_of_words(g, split, STACKABLE)
        relation = list(RELATIONS)[int(g.integers(len(RELATIONS)))]
        scene = pair(first, relation, second, g)
        text = (
            normal_caption(first[0], named, relation, second[0])
            if kind == "normals"
            else pair_caption(first, relation, second, g, named)
        )
    elif kind == "room":
        first = ("room", first[1])
        scene, text = room(first[1], g), caption("room", first[1], g)
        elevation, fov = float(np.radians(g.uniform(-20, 20))), float(np.radians(g.uniform(60, 80)))
    elif kind == "colour" and not words and g.random() < data.striped:
        stripes = str(g.choice([c for c in COLOURS if c != first[1]]))
        scene, text = single_object(*first, g, stripes), striped_caption(*first, stripes, g, named)
    else:
        scene = single_object(*first, g)
        text = normal_caption(first[0], named) if kind == "normals" else caption(*first, g, named)
    pose = orbit(azimuth, elevation, g.uniform(0.1, 0.6) if kind == "room" else distance)
    look = draw_look(g, kind == "normals")
    image = Tracer(scene).render(pose, fov, look, size, samples or data.samples)
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
        "" if stripes else scene.trait,
        nearest_colour(np.array(look.background)) if kind in ("colour", "pair") else None,
    )


def sample(prompt: str, n: int, seed: int = 0) -> list[Scene]:
    """Sample true objects that match a prompt.

    The objects serve as ground truth for geometry and diversity.

    Args:
        prompt: Prompt that describes one object (with or without stripes), two objects, or a room.
        n: Number of samples.
        seed: Random seed.

    Returns:
        One mesh per sample.

    Raises:
        ValueError: If the prompt cannot be parsed.
    """
    both, one, striped = parse_pair(prompt), parse(prompt), parse_striped(prompt)
    scenes = []
    for k in range(n):
        g = np.random.default_rng((seed, k, 7))
        if both:
            scenes.append(pair(*both, g))
        elif one:
            scenes.append(single_object(*one, g))
        elif striped:
            family, colour, stripes = striped
            scenes.append(single_object(family, colour, g, stripes))
        elif "room" in prompt.lower().split():
            colours = [c for c in COLOURS if c in prompt.lower().split()]
            scenes.append(room(colours[0] if colours else "white", g))
        else:
            raise ValueError(
                f"the prompt must describe an object of the Toybox world, got {prompt!r}; "
                f"known families: {', '.join(FAMILIES)}"
            )
    return scenes


def render(
    scene: Scene, cameras, fov: float = np.pi / 4, look: Look = DEFAULT_LOOK, size: int = 64, samples: int = 3
) -> Float32[np.ndarray, "views 3 {size} {size}"]:
    """Render a mesh from several cameras.

    Args:
        scene: Mesh to render.
        cameras: Camera-to-world matrices (views, 4, 4) in OpenGL axes, as an array or a list.
        fov: Vertical field of view, in radians.
        look: Light and background; by default, light from above and a white background.
        size: Height and width of the images, in pixels.
        samples: Number of rays per pixel along each image axis.

    Returns:
        sRGB images in [0, 1].
    """
    from prolific_core.toybox.world.renderer import Tracer

    tracer = Tracer(scene)
    views = [tracer.render(c, float(fov), look, size, samples) for c in np.asarray(cameras).reshape(-1, 4, 4)]
    return np.stack(views).transpose(0, 3, 1, 2)
