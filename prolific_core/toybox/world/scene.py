"""A thing of the world as one triangle mesh with colours: families put together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from prolific_core.toybox.world.families import COLOURS, FAMILIES, NATURAL
from prolific_core.toybox.world.shapes import Part, box


@dataclass(frozen=True)
class Scene:
    """A coloured mesh in the world frame (z up, front +x).

    vertices (V, 3) float32, normals (V, 3) unit float32 (doubled at creases),
    faces (F, 3) int32 outward, colours (F, 3) float32 sRGB in [0, 1].
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    colours: np.ndarray

    def trimesh(self):
        """The same as a `trimesh.Trimesh` with face colours, vertices merged."""
        import trimesh

        rgba = np.concatenate([self.colours, np.ones((len(self.colours), 1), np.float32)], 1)
        mesh = trimesh.Trimesh(
            self.vertices, self.faces, face_colors=(rgba * 255).round().astype(np.uint8), process=False
        )
        mesh.merge_vertices(merge_norm=True, merge_tex=True)
        return mesh


def jitter(rgb, g: np.random.Generator, amount: float = 0.035) -> np.ndarray:
    """A colour near rgb: brightness and hue vary as paint does."""
    return np.clip(np.asarray(rgb) * g.uniform(0.9, 1.08) + g.uniform(-amount, amount, 3), 0, 1)


def striped(parts: list[Part], bands: int) -> list[Part]:
    """The parts with every second of `bands` level bands of the main ones given the role "stripe"."""
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


def assemble(parts: list[Part], colour: str, g: np.random.Generator, stripes: str | None = None) -> tuple:
    """Join parts and paint them, with stripes of a second colour or plain: (vertices, normals, faces, colours)."""
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
    """Centre at the bounding box's centre; the farthest vertex gets the radius."""
    v = v - (v.min(0) + v.max(0)) / 2
    v = v * (radius / np.linalg.norm(v, axis=1).max())
    return Scene(v.astype(np.float32), n.astype(np.float32), f.astype(np.int32), c.astype(np.float32))


def thing(family: str, colour: str, g: np.random.Generator, stripes: str | None = None) -> Scene:
    """One object, radius U(.42, .5), plain or with stripes of a second colour."""
    return finish(*assemble(FAMILIES[family](g), colour, g, stripes), g.uniform(0.42, 0.5))


#: Relation words -> unit direction from the second object to the first.
#: Left and right are as seen by the camera that looks at the front (from +x).
RELATIONS = {
    "on": (0, 0, 1),
    "under": (0, 0, -1),
    "in front of": (1, 0, 0),
    "behind": (-1, 0, 0),
    "left of": (0, -1, 0),
    "right of": (0, 1, 0),
    "next to": (0, 1, 0),
}


def pair(first: tuple[str, str], relation: str, second: tuple[str, str], g: np.random.Generator) -> Scene:
    """Two objects, (family, colour) each, with the first placed by the relation."""
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
        gap -= 0.01  # resting, not floating
    else:
        gap += g.uniform(0.02, 0.15)
        b[:, 2] += a[:, 2].min() - b[:, 2].min()  # on the same ground
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
    """A furnished room seen from inside: walls of the colour, radius about 2.5.

    Cameras stand near the origin. The shell's faces look inwards.
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
