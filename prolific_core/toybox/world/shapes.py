"""Primitive solids as NumPy arrays: closed surfaces with outward faces and vertex normals.

A training image consists of about ten solids, so each of them is built in well under a millisecond. Vertices on creases
are duplicated, so that interpolated normals make curved surfaces look smooth and edges look sharp.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int

Points = Sequence[Sequence[float]] | np.ndarray
CREASE = np.cos(np.radians(40.0))  # Two adjacent faces form a crease if their normals differ by more than 40 degrees.


@dataclass(frozen=True)
class Part:
    """A solid with a single colour.

    Attributes:
        vertices: Vertex positions.
        normals: Unit normals of the vertices.
        faces: Vertex indices, counter-clockwise as seen from outside.
        role: Role that determines the colour: "main" for the main colour in the caption, "stripe" for the stripes'
            colour, or a key of `NATURAL`.
        trait: Words for a variant of the object that this part shows, such as "with a hat", or an empty string.
    """

    vertices: Float[np.ndarray, "vertices 3"]
    normals: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]
    role: str = "main"
    trait: str = ""

    def move(self, x: float = 0.0, y: float = 0.0, z: float = 0.0) -> Part:
        """Return a copy of the solid that is translated by a vector.

        Args:
            x: Distance along x.
            y: Distance along y.
            z: Distance along z.

        Returns:
            The translated solid.
        """
        return replace(self, vertices=self.vertices + np.array([x, y, z]))

    def scale(self, x: float, y: float | None = None, z: float | None = None) -> Part:
        """Return a copy of the solid that is scaled about the origin.

        Args:
            x: Positive factor along x.
            y: Positive factor along y; defaults to `x`.
            z: Positive factor along z; defaults to `x`.

        Returns:
            The scaled solid.
        """
        s = np.array([x, x if y is None else y, x if z is None else z], dtype=float)
        n = self.normals / s
        return replace(self, vertices=self.vertices * s, normals=n / np.linalg.norm(n, axis=1, keepdims=True))

    def rotate(self, axis: str, degrees: float) -> Part:
        """Return a copy of the solid that is rotated about a coordinate axis.

        Args:
            axis: Axis "x", "y" or "z".
            degrees: Right-handed angle in degrees.

        Returns:
            The rotated solid.
        """
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        r = np.eye(3)
        r[i, i] = r[j, j] = c
        r[i, j], r[j, i] = -s, s
        return replace(self, vertices=self.vertices @ r.T, normals=self.normals @ r.T)

    def paint(self, role: str) -> Part:
        """Return a copy of the solid with another role.

        Args:
            role: New role; see `Part`.

        Returns:
            The same surface with the new role.
        """
        return replace(self, role=role)

    def describe(self, trait: str) -> Part:
        """Return a copy of the solid with another trait.

        Args:
            trait: New trait; see `Part`.

        Returns:
            The same surface with the new trait.
        """
        return replace(self, trait=trait)

    def cut(self, height: float) -> Part:
        """Split the triangles that cross a horizontal plane.

        Args:
            height: Height z of the plane.

        Returns:
            The same surface without triangles that cross the plane.
        """
        z = self.vertices[:, 2][self.faces]
        above = z > height
        count = above.sum(1)
        crossing = (count == 1) | (count == 2)
        faces, above, lone_above = self.faces[crossing], above[crossing], count[crossing] == 1
        # Corner a is alone on its side of the plane. The plane cuts the edges ab and ac at p and q.
        alone = np.where(lone_above, above.argmax(1), (~above).argmax(1))
        a, b, c = np.take_along_axis(faces, (alone[:, None] + np.arange(3)) % 3, 1).T
        base, k = len(self.vertices), len(a)
        p, q = base + np.arange(k), base + k + np.arange(k)

        def between(values, i, j):
            zi, zj = self.vertices[i, 2], self.vertices[j, 2]
            return values[i] + ((height - zi) / (zj - zi))[:, None] * (values[j] - values[i])

        v = np.concatenate([self.vertices, between(self.vertices, a, b), between(self.vertices, a, c)])
        n = np.concatenate([self.normals, between(self.normals, a, b), between(self.normals, a, c)])
        new = np.concatenate([np.stack(t, 1) for t in ((a, p, q), (p, b, c), (p, c, q))])
        faces = np.concatenate([self.faces[~crossing], new])
        return replace(self, vertices=v, normals=n / np.linalg.norm(n, axis=1, keepdims=True), faces=faces)


def _runs(points: np.ndarray, closed: bool) -> list[tuple[np.ndarray, np.ndarray]]:
    """Split a polyline (P, 2) into smooth runs at its creases.

    Each run consists of points (K, 2) and their normals (K, 2), which point to the right-hand side.
    """
    if closed:
        points = np.vstack([points, points[:1]])
    d = np.diff(points, axis=0)
    keep = np.linalg.norm(d, axis=1) > 1e-9
    points = np.vstack([points[:-1][keep], points[-1:]])
    d = np.diff(points, axis=0)
    d = d / np.linalg.norm(d, axis=1, keepdims=True)
    seg = np.stack([d[:, 1], -d[:, 0]], axis=1)
    smooth = (seg[:-1] * seg[1:]).sum(1) > CREASE
    ring = closed and (seg[-1] * seg[0]).sum() > CREASE
    runs, start = [], 0
    for end in [k + 1 for k in np.flatnonzero(~smooth)] + [len(seg)]:
        n = np.zeros((end - start + 1, 2))
        n[:-1] += seg[start:end]
        n[1:] += seg[start:end]
        if ring and start == 0:
            n[0] += seg[-1]
        if ring and end == len(seg):
            n[-1] += seg[0]
        runs.append((points[start : end + 1], n / np.linalg.norm(n, axis=1, keepdims=True)))
        start = end
    return runs


def _strip(rows: int, cols: int) -> np.ndarray:
    """Return the faces of an open row-major grid of vertices."""
    a = (np.arange(rows - 1)[:, None] * cols + np.arange(cols - 1)[None]).ravel()
    return np.concatenate([np.stack([a, a + 1, a + cols + 1], 1), np.stack([a, a + cols + 1, a + cols], 1)])


def _join(chunks: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Part:
    """Join surfaces (vertices, normals and faces) and drop triangles without area."""
    v, n, f, offset = [], [], [], 0
    for cv, cn, cf in chunks:
        v.append(cv)
        n.append(cn)
        f.append(cf + offset)
        offset += len(cv)
    v, n, f = np.concatenate(v), np.concatenate(n), np.concatenate(f)
    t = v[f]
    area = np.linalg.norm(np.cross(t[:, 1] - t[:, 0], t[:, 2] - t[:, 0]), axis=1)
    return Part(v, n, f[area > 1e-12])


def revolve(profile: Points, segments: int = 28, closed: bool = False) -> Part:
    """Revolve a profile about the z axis.

    Args:
        profile: Points (P, 2) of radius and z, ordered upwards on the outside. An open profile must start and end at
            radius 0.
        segments: Number of segments around the axis.
        closed: Whether to connect the last point to the first to form a ring.

    Returns:
        The solid of revolution.
    """
    angle = np.linspace(0, 2 * np.pi, segments + 1)
    c, s = np.cos(angle), np.sin(angle)
    c[-1], s[-1] = c[0], s[0]
    chunks = []
    for p, n in _runs(np.asarray(profile, dtype=float), closed):

        def spin(q):
            return np.stack([q[:, :1] * c, q[:, :1] * s, np.repeat(q[:, 1:], len(c), 1)], -1).reshape(-1, 3)

        chunks.append((spin(p), spin(n), _strip(len(p), len(c))))
    return _join(chunks)


def sphere(radius: float = 1.0, rings: int = 14, segments: int = 28) -> Part:
    """Return a sphere centred at the origin.

    Args:
        radius: Radius of the sphere.
        rings: Number of segments from pole to pole.
        segments: Number of segments around the axis.

    Returns:
        The sphere.
    """
    a = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)
    profile = np.stack([np.cos(a), np.sin(a)], 1) * radius
    profile[[0, -1], 0] = 0
    return revolve(profile, segments)


def cylinder(radius: float, height: float, top: float | None = None, segments: int = 28) -> Part:
    """Return a cylinder or a frustum whose base lies in the plane z = 0.

    Args:
        radius: Radius of the base.
        height: Height along z.
        top: Radius of the top; defaults to `radius`.
        segments: Number of segments around the axis.

    Returns:
        The cylinder or frustum.
    """
    top = radius if top is None else top
    return revolve([(0, 0), (radius, 0), (top, height), (0, height)], segments)


def torus(major: float, minor: float, segments: int = 32, sides: int = 14) -> Part:
    """Return a torus about the z axis.

    Args:
        major: Distance from the axis to the centre of the tube.
        minor: Radius of the tube.
        segments: Number of segments around the axis.
        sides: Number of segments around the tube.

    Returns:
        The torus.
    """
    a = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    return revolve(np.stack([major + minor * np.cos(a), minor * np.sin(a)], 1), segments, closed=True)


def box(x: float, y: float, z: float) -> Part:
    """Return a box whose base lies in the plane z = 0 and is centred at the origin.

    Args:
        x: Size along x.
        y: Size along y.
        z: Size along z.

    Returns:
        The box.
    """
    h = np.array([x, y, z]) / 2
    chunks = []
    for axis in range(3):
        for sign in (-1.0, 1.0):
            u, w = (axis + 1) % 3, (axis + 2) % 3
            v = np.zeros((4, 3))
            v[:, axis] = sign
            v[:, u] = np.array([-1, 1, 1, -1]) * sign
            v[:, w] = [-1, -1, 1, 1]
            n = np.zeros((4, 3))
            n[:, axis] = sign
            chunks.append((v * h, n, np.array([[0, 1, 2], [0, 2, 3]])))
    return _join(chunks).move(z=z / 2)


def extrude(polygon: Points, height: float) -> Part:
    """Extrude a polygon along z.

    Args:
        polygon: Points (P, 2) in counter-clockwise order; the polygon must be star-shaped about their mean.
        height: Height along z.

    Returns:
        The prism, whose base lies in the plane z = 0.
    """
    p = np.asarray(polygon, dtype=float)
    chunks = []
    for q, n in _runs(p, closed=True):
        z = np.zeros((len(q), 1))
        v = np.concatenate([np.hstack([q, z]), np.hstack([q, z + height])])
        chunks.append((v, np.hstack([np.vstack([n, n]), np.zeros((2 * len(q), 1))]), _strip(2, len(q))))
    k = len(p)
    ring = np.stack([np.full(k, k), np.arange(k), (np.arange(k) + 1) % k], 1)
    for z, flip in ((height, 1.0), (0.0, -1.0)):
        v = np.hstack([np.vstack([p, p.mean(0)]), np.full((k + 1, 1), z)])
        n = np.tile([0.0, 0.0, flip], (k + 1, 1))
        chunks.append((v, n, ring if flip > 0 else ring[:, ::-1]))
    return _join(chunks)


def tube(path: Points, radius: float | np.ndarray, sides: int = 10) -> Part:
    """Sweep a circle along a planar path.

    Args:
        path: Points (P, 3).
        radius: Radius of the tube, or one radius per point (P,).
        sides: Number of segments around the path.

    Returns:
        The tube, with flat ends.
    """
    p = np.asarray(path, dtype=float)
    r = np.broadcast_to(np.asarray(radius, dtype=float), (len(p),))
    t = np.gradient(p, axis=0)
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    # The path is planar, so the normal of its plane is perpendicular to every tangent.
    normal = np.linalg.svd(p - p.mean(0))[2][2]
    u = np.cross(t, normal)
    u /= np.linalg.norm(u, axis=1, keepdims=True)
    w = np.cross(t, u)
    a = np.linspace(0, 2 * np.pi, sides + 1)
    n = u[:, None] * np.cos(a)[None, :, None] + w[:, None] * np.sin(a)[None, :, None]
    n[:, -1] = n[:, 0]
    v = p[:, None] + n * r[:, None, None]
    chunks = [(v.reshape(-1, 3), n.reshape(-1, 3), _strip(len(p), sides + 1))]
    fan = np.stack([np.full(sides, sides), np.arange(sides), np.arange(1, sides + 1) % sides], 1)
    for end, flip in ((0, -1.0), (-1, 1.0)):
        cap = np.vstack([v[end, :sides], p[end : end + 1] if end == 0 else p[-1:]])
        chunks.append((cap, np.tile(t[end] * flip, (sides + 1, 1)), fan if flip > 0 else fan[:, ::-1]))
    return _join(chunks)
