"""Coloured triangle meshes of single objects, pairs and rooms, and the light and background of their images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Int32

from prolific_core.toybox.world.families import COLOURS, FAMILIES, NATURAL
from prolific_core.toybox.world.shapes import Part, box


@dataclass(frozen=True)
class Scene:
    """A coloured mesh in the world frame, in which z is up and the front faces +x.

    Attributes:
        vertices: Vertex positions; vertices on creases are duplicated.
        normals: Unit normals of the vertices.
        faces: Vertex indices, counter-clockwise as seen from outside.
        colours: sRGB colours of the faces, in [0, 1].
        trait: Words for the variant of a single object, such as "with a hat"; empty if the family has no variants.
    """

    vertices: Float32[np.ndarray, "vertices 3"]
    normals: Float32[np.ndarray, "vertices 3"]
    faces: Int32[np.ndarray, "faces 3"]
    colours: Float32[np.ndarray, "faces 3"]
    trait: str = ""

    def trimesh(self):
        """Return the mesh as a `trimesh.Trimesh` with face colours and merged vertices."""
        import trimesh

        rgba = np.concatenate([self.colours, np.ones((len(self.colours), 1), np.float32)], 1)
        mesh = trimesh.Trimesh(
            self.vertices, self.faces, face_colors=(rgba * 255).round().astype(np.uint8), process=False
        )
        mesh.merge_vertices(merge_norm=True, merge_tex=True)
        return mesh


@dataclass(frozen=True)
class Look:
    """Light and background of an image.

    Attributes:
        light: Unit direction towards the light, in world axes.
        ambient: Brightness of a surface that faces away from the light.
        background: sRGB in [0, 1].
        normals: Whether to render normals instead of colours.
    """

    light: tuple[float, float, float] = (0.3, 0.2, 0.93)
    ambient: float = 0.55
    background: tuple[float, float, float] = (1.0, 1.0, 1.0)
    normals: bool = False


DEFAULT_LOOK = Look()


def jitter(rgb: Sequence[float], g: np.random.Generator, amount: float = 0.035) -> Float[np.ndarray, " 3"]:
    """Vary the brightness and hue of a colour slightly at random.

    Args:
        rgb: sRGB colour in [0, 1].
        g: Random number generator.
        amount: Maximum shift of a channel.

    Returns:
        The new sRGB colour, in [0, 1].
    """
    return np.clip(np.asarray(rgb) * g.uniform(0.9, 1.08) + g.uniform(-amount, amount, 3), 0, 1)


def striped(parts: list[Part], bands: int) -> list[Part]:
    """Cut the main parts into horizontal bands and give every second band the role "stripe".

    Args:
        parts: Parts of an object.
        bands: Number of bands over the height of the main parts.

    Returns:
        All parts. Each main part is replaced by two parts: the bands that keep the main colour and the stripes.
    """
    z = np.concatenate([p.vertices[:, 2] for p in parts if p.role == "main"])
    heights, out = np.linspace(z.min(), z.max(), bands + 1)[1:-1], []
    for part in parts:
        if part.role != "main":
            out.append(part)
            continue
        for height in heights:
            part = part.cut(height)
        odd = np.searchsorted(heights, part.vertices[:, 2][part.faces].mean(1)) % 2 == 1
        out += [
            Part(part.vertices, part.normals, part.faces[~odd]),
            Part(part.vertices, part.normals, part.faces[odd], "stripe"),
        ]
    return out


def assemble(
    parts: list[Part], colour: str, g: np.random.Generator, stripes: str | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Join the parts of an object and assign a colour to each face.

    Args:
        parts: Parts of the object.
        colour: Name of the main colour.
        g: Random number generator.
        stripes: Name of the stripes' colour, or None for an object without stripes.

    Returns:
        Vertices (V, 3), normals (V, 3), faces (F, 3) and face colours (F, 3).
    """
    paint = {"main": jitter(COLOURS[colour], g)}
    if stripes:
        parts = striped(parts, int(g.integers(5, 8)))
        paint["stripe"] = jitter(COLOURS[stripes], g)
    v, n, f, c, offset = [], [], [], [], 0
    for part in parts:
        if part.role not in paint:
            options = NATURAL[part.role]
            paint[part.role] = jitter(options[int(g.integers(len(options)))], g, 0.02)
        v.append(part.vertices)
        n.append(part.normals)
        f.append(part.faces + offset)
        c.append(np.broadcast_to(paint[part.role], (len(part.faces), 3)))
        offset += len(part.vertices)
    return np.concatenate(v), np.concatenate(n), np.concatenate(f), np.concatenate(c)


def finish(v, n, f, c, radius: float) -> Scene:
    """Move the centre of a mesh's bounding box to the origin and scale the mesh to a given radius.

    Args:
        v: Vertices (V, 3).
        n: Normals (V, 3).
        f: Faces (F, 3).
        c: Face colours (F, 3).
        radius: Distance from the origin to the farthest vertex of the result.

    Returns:
        The mesh in single precision.
    """
    v = v - (v.min(0) + v.max(0)) / 2
    v = v * (radius / np.linalg.norm(v, axis=1).max())
    return Scene(v.astype(np.float32), n.astype(np.float32), f.astype(np.int32), c.astype(np.float32))


def single_object(family: str, colour: str, g: np.random.Generator, stripes: str | None = None) -> Scene:
    """Build a mesh of one object with a radius between 0.46 and 0.5.

    Args:
        family: Key of `FAMILIES`.
        colour: Key of `COLOURS`.
        g: Random number generator.
        stripes: Name of the stripes' colour, or None for an object without stripes.

    Returns:
        The object, centred at the origin.
    """
    parts = FAMILIES[family](g)
    trait = next((part.trait for part in parts if part.trait), "")
    return replace(finish(*assemble(parts, colour, g, stripes), g.uniform(0.46, 0.5)), trait=trait)


#: Unit directions from the second object to the first, by relation. Left and right are relative to a camera at +x that
#: points at the origin.
RELATIONS = {
    "on": (0, 0, 1),
    "under": (0, 0, -1),
    "in front of": (1, 0, 0),
    "behind": (-1, 0, 0),
    "left of": (0, -1, 0),
    "right of": (0, 1, 0),
    "next to": (0, 1, 0),
}


#: Positions of one object relative to another in an image. They are the classes of the classifier head "place".
PLACES = ("above", "below", "right", "left", "nearer", "farther")


def relative_place(label: dict) -> tuple[tuple[str, str], tuple[str, str], str | None]:
    """Return the two objects of an image in a fixed order, and the place of the first relative to the second.

    The objects are ordered as in `FAMILIES` and `COLOURS`, so "a on b" and "b under a" give the same result.

    Args:
        label: Label of an image of two objects; see `Example.label`.

    Returns:
        Family and colour of the first object, family and colour of the second object, and the place, which is one of
        `PLACES`. The place is None if the objects are equal or the relation is "next to", because the label does not
        determine the place in these cases.
    """
    first, second = (label["family"], label["colour"]), tuple(label["second"])
    direction = np.array(RELATIONS[label["relation"]], dtype=float)

    def order(pair: tuple[str, str]) -> tuple[int, int]:
        return list(FAMILIES).index(pair[0]), list(COLOURS).index(pair[1])

    if order(second) < order(first):
        first, second, direction = second, first, -direction
    if first == second or label["relation"] == "next to":
        return first, second, None
    a = label["azimuth"]
    right, nearer = direction @ [-np.sin(a), np.cos(a), 0], direction @ [np.cos(a), np.sin(a), 0]
    seen = max((abs(direction[2]), 0, direction[2]), (abs(right), 1, right), (abs(nearer), 2, nearer))
    return first, second, PLACES[2 * seen[1] + int(seen[2] < 0)]


def pair(first: tuple[str, str], relation: str, second: tuple[str, str], g: np.random.Generator) -> Scene:
    """Build a mesh of two objects in a given relation.

    Args:
        first: Family and colour of the first object.
        relation: Relation of the first object to the second; a key of `RELATIONS`.
        second: Family and colour of the second object.
        g: Random number generator.

    Returns:
        Both objects in one mesh, with a radius between 0.45 and 0.5.
    """
    placed = []
    direction = np.array(RELATIONS[relation], dtype=float)
    if relation == "next to" and g.random() < 0.5:
        direction = -direction
    for family, colour in (first, second):
        v, n, f, c = assemble(FAMILIES[family](g), colour, g)
        v = v - (v.min(0) + v.max(0)) / 2
        size = (v.max(0) - v.min(0)).max()
        placed.append([v / size * g.uniform(0.85, 1.1), n, f, c])
    (a, *_), (b, *_) = placed
    axis = int(np.abs(direction).argmax())
    gap = (a[:, axis].max() - a[:, axis].min() + b[:, axis].max() - b[:, axis].min()) / 2
    if axis == 2:
        gap -= 0.01  # A small overlap prevents a visible gap between the objects.
    else:
        gap += g.uniform(0.02, 0.15)
        b[:, 2] += a[:, 2].min() - b[:, 2].min()  # Both objects stand on the same ground plane.
    a += direction * gap
    f = np.concatenate([placed[0][2], placed[1][2] + len(a)])
    return finish(
        np.concatenate([a, b]),
        np.concatenate([placed[0][1], placed[1][1]]),
        f,
        np.concatenate([placed[0][3], placed[1][3]]),
        g.uniform(0.45, 0.5),
    )


def room(colour: str, g: np.random.Generator) -> Scene:
    """Build a mesh of a furnished room.

    The room has a radius of about 2.5 and is rendered by cameras near the origin.

    Args:
        colour: Name of the colour of the walls.
        g: Random number generator.

    Returns:
        One mesh of the walls, floor, ceiling, door, window and furniture. The faces of the walls point inwards.
    """
    x, y, z = g.uniform(2.6, 3.4, 3) * np.array([1, 1, 0.7])
    shell = box(x, y, z)
    walls = Part(shell.vertices, -shell.normals, shell.faces[:, ::-1])
    parts = [walls]
    parts.append(box(x * 0.99, y * 0.99, 0.03).move(z=0.01).paint("wood"))
    parts.append(box(x * 0.99, y * 0.99, 0.03).move(z=z - 0.04).paint("cloth"))
    parts.append(box(0.06, 0.7, 1.4).move(x / 2, g.uniform(-0.4, 0.4)).paint("door"))
    parts.append(box(0.06, 1.0, 0.7).move(-x / 2, g.uniform(-0.4, 0.4), z * 0.45).paint("window"))
    for family, role, px, py, size in (
        ("table", "wood", 0.0, -0.33, 0.75),
        ("chair", "dark", 0.25, 0.32, 0.7),
        ("lamp", None, -0.35, 0.36, 0.9),
    ):
        made = FAMILIES[family](g)
        v = np.concatenate([p.vertices for p in made])
        s = size / (v.max(0) - v.min(0)).max()
        for p in made:
            p = p.move(z=-v[:, 2].min()).scale(s).move(px * x, py * y, 0.02)
            parts.append(p.paint(role) if role and p.role == "main" else p.paint("cloth") if p.role == "main" else p)
    v, n, f, c = assemble(parts, colour, g)
    v = v - np.array([0, 0, z / 2])
    return Scene(v.astype(np.float32), n.astype(np.float32), f.astype(np.int32), c.astype(np.float32))
