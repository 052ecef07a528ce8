"""Primitive solids as plain arrays: closed, outward, with their own normals.

Everything is numpy and takes well under a millisecond: a training image needs
about ten of these. Vertices are doubled at creases, so that interpolating
vertex normals shades round things round and edges sharp.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CREASE = np.cos(np.radians(40.0))


@dataclass(frozen=True)
class Part:
    """A solid of one colour.

    vertices (V, 3) float64, normals (V, 3) unit, faces (F, 3) int, and the
    role of its colour: "main" (the caption's) or the name of a natural one.
    """

    vertices: np.ndarray
    normals: np.ndarray
    faces: np.ndarray
    role: str = "main"

    def move(self, x=0.0, y=0.0, z=0.0) -> Part:
        return Part(self.vertices + np.array([x, y, z]), self.normals, self.faces, self.role)

    def scale(self, x, y=None, z=None) -> Part:
        """Scale by positive factors (one number: uniformly)."""
        s = np.array([x, x if y is None else y, x if z is None else z], dtype=float)
        n = self.normals / s
        return Part(self.vertices * s, n / np.linalg.norm(n, axis=1, keepdims=True), self.faces, self.role)

    def rotate(self, axis: str, degrees: float) -> Part:
        """Rotate about a coordinate axis, right-handed."""
        c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
        i, j = {"x": (1, 2), "y": (2, 0), "z": (0, 1)}[axis]
        r = np.eye(3)
        r[i, i] = r[j, j] = c
        r[i, j], r[j, i] = -s, s
        return Part(self.vertices @ r.T, self.normals @ r.T, self.faces, self.role)

    def paint(self, role: str) -> Part:
        return Part(self.vertices, self.normals, self.faces, role)

    def cut(self, height: float) -> Part:
        """The same solid with no triangle across the plane z = height."""
        z = self.vertices[:, 2][self.faces]
        above = z > height
        count = above.sum(1)
        crossing = (count == 1) | (count == 2)
        faces, above, lone_above = self.faces[crossing], above[crossing], count[crossing] == 1
        # The corner alone on its side comes first; its two edges are cut at p and q.
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
        return Part(
            v, n / np.linalg.norm(n, axis=1, keepdims=True), np.concatenate([self.faces[~crossing], new]), self.role
        )


def _runs(points: np.ndarray, closed: bool):
    """Cut a polyline (P, 2) at its creases: [(points (K, 2), left normals (K, 2))]."""
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
    """Faces of a (rows, cols) grid of vertices, row-major, not wrapped."""
    a = (np.arange(rows - 1)[:, None] * cols + np.arange(cols - 1)[None]).ravel()
    return np.concatenate([np.stack([a, a + 1, a + cols + 1], 1), np.stack([a, a + cols + 1, a + cols], 1)])


def _join(chunks) -> Part:
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


def revolve(profile, segments: int = 28, closed: bool = False) -> Part:
    """Turn a profile (P, 2) of (radius, z) about z; listed upwards on the outside.

    An open profile should start and end at radius 0; a closed one is a ring.
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
    a = np.linspace(-np.pi / 2, np.pi / 2, rings + 1)
    profile = np.stack([np.cos(a), np.sin(a)], 1) * radius
    profile[[0, -1], 0] = 0
    return revolve(profile, segments)


def cylinder(radius: float, height: float, top: float | None = None, segments: int = 28) -> Part:
    """A cylinder or frustum on z = 0; top is the upper radius."""
    top = radius if top is None else top
    return revolve([(0, 0), (radius, 0), (top, height), (0, height)], segments)


def torus(major: float, minor: float, segments: int = 32, sides: int = 14) -> Part:
    a = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    return revolve(np.stack([major + minor * np.cos(a), minor * np.sin(a)], 1), segments, closed=True)


def box(x: float, y: float, z: float) -> Part:
    """A box of the given sizes, standing on z = 0, centred in x and y."""
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


def extrude(polygon, height: float) -> Part:
    """Extrude a counter-clockwise polygon (P, 2), star-shaped about its centroid, along z."""
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


def tube(path, radius, sides: int = 10) -> Part:
    """Sweep a circle along a path (P, 3); radius one number or (P,); flat ends."""
    p = np.asarray(path, dtype=float)
    r = np.broadcast_to(np.asarray(radius, dtype=float), (len(p),))
    t = np.gradient(p, axis=0)
    t /= np.linalg.norm(t, axis=1, keepdims=True)
    # One fixed reference suffices: the paths here are planar; take its normal.
    flat = np.linalg.svd(p - p.mean(0))[2][2]
    u = np.cross(t, flat)
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
