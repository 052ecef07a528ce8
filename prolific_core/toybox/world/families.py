"""Object families of the Toybox world.

Each family is a function that samples the proportions of an object and returns its parts. The proportions vary, so that
many different objects match the same prompt. The front faces +x and z is up. The units are arbitrary, because
`scene.finish` centres and scales the result.
"""

from __future__ import annotations

import numpy as np

from prolific_core.toybox.world.shapes import (
    Part,
    box,
    cylinder,
    extrude,
    revolve,
    sphere,
    torus,
    tube,
)


def _ball(g: np.random.Generator) -> list[Part]:
    """Return the parts of a slightly flattened or stretched ball."""
    return [sphere(1.0).scale(1, 1, g.uniform(0.92, 1.06))]


def _cube(g: np.random.Generator) -> list[Part]:
    """Return the parts of a box with nearly equal sides."""
    return [box(g.uniform(0.9, 1.1), g.uniform(0.9, 1.1), g.uniform(0.9, 1.1))]


def _cylinder(g: np.random.Generator) -> list[Part]:
    """Return the parts of an upright cylinder."""
    return [cylinder(1.0, g.uniform(1.7, 3.2))]


def _cone(g: np.random.Generator) -> list[Part]:
    """Return the parts of an upright cone."""
    return [cylinder(1.0, g.uniform(1.6, 2.8), top=0.0, segments=36)]


def _ring(g: np.random.Generator) -> list[Part]:
    """Return the parts of an upright torus whose hole faces the front."""
    return [torus(1.0, g.uniform(0.2, 0.42)).rotate("y", 90)]


def _mug(g: np.random.Generator) -> list[Part]:
    """Return the parts of a mug with its handle at +y."""
    height, wall, taper = g.uniform(1.9, 2.8), g.uniform(0.1, 0.16), g.uniform(0.85, 1.05)
    body = revolve([(0, 0), (taper, 0), (1, height), (1 - wall, height), (taper - wall, 0.18), (0, 0.18)], 32)
    a = np.linspace(-np.pi / 2, np.pi / 2, 13)
    reach, tall = g.uniform(0.6, 0.9), g.uniform(0.27, 0.36) * height
    path = np.stack([0 * a, 0.9 + reach * np.cos(a), height * g.uniform(0.48, 0.54) + tall * np.sin(a)], 1)
    return [body, tube(path, g.uniform(0.14, 0.2))]


def _chair(g: np.random.Generator) -> list[Part]:
    """Return the parts of a chair with four legs and a closed or slatted back."""
    w, d = g.uniform(0.9, 1.15), g.uniform(0.9, 1.1)
    leg, seat, back = g.uniform(0.75, 1.05), g.uniform(0.1, 0.17), g.uniform(0.8, 1.25)
    t = g.uniform(0.09, 0.14)
    parts = [box(d, w, seat).move(z=leg)]
    for sx in (-1, 1):
        for sy in (-1, 1):
            parts.append(box(t, t, leg).move(sx * (d - t) / 2, sy * (w - t) / 2))
    x = -(d - t) / 2
    if g.random() < 0.6:
        parts.append(box(t, w, back).move(x, 0, leg + seat).describe("with a solid back"))
    else:
        for y in (-1, 1):
            parts.append(box(t, t, back).move(x, y * (w - t) / 2, leg + seat))
        for k in range(3):
            slat = box(t * 0.8, w, back * 0.18).describe("with a slatted back")
            parts.append(slat.move(x, 0, leg + seat + back * (0.2 + 0.31 * k)))
    return parts


def _table(g: np.random.Generator) -> list[Part]:
    """Return the parts of a round table with one leg or of a rectangular table with four legs."""
    h, t = g.uniform(0.75, 1.1), g.uniform(0.08, 0.14)
    if g.random() < 0.3:
        top = [cylinder(g.uniform(0.75, 1.0), t).move(z=h)]
        return top + [cylinder(0.1, h).describe("with one leg"), cylinder(g.uniform(0.35, 0.5), 0.09)]
    w, d, leg = g.uniform(1.3, 2.0), g.uniform(0.9, 1.2), g.uniform(0.1, 0.15)
    parts = [box(d, w, t).move(z=h)]
    for sx in (-1, 1):
        for sy in (-1, 1):
            parts.append(box(leg, leg, h).move(sx * (d / 2 - leg), sy * (w / 2 - leg)).describe("with four legs"))
    return parts


def _house(g: np.random.Generator) -> list[Part]:
    """Return the parts of a house with its gable and door at the front."""
    d, w, h = g.uniform(1.0, 1.4), g.uniform(1.1, 1.5), g.uniform(0.75, 1.05)
    roof, eave = g.uniform(0.45, 0.75), 0.1
    body = box(d, w, h)
    # The ridge runs along x, so that the gable faces the front.
    prism = extrude([(-w / 2 - eave, 0), (w / 2 + eave, 0), (0, roof)], d + 0.1)
    prism = prism.rotate("x", 90).rotate("z", 90).move(x=-d / 2 - 0.05, z=h)
    parts = [body, prism.paint("roof")]
    door_y = g.uniform(-0.12, 0.12) * w
    parts.append(box(0.06, 0.27 * w, 0.62 * h).move(d / 2, door_y).paint("door"))
    for side in (-1, 1):
        parts.append(box(0.05, 0.17 * w, 0.26 * h).move(d / 2, side * 0.33 * w, 0.5 * h).paint("window"))
        for x in (-0.24, 0.24):
            parts.append(box(0.22 * d, 0.05, 0.3 * h).move(x * d, side * w / 2, 0.42 * h).paint("window"))
    if g.random() < 0.5:
        chimney = box(0.16, 0.16, 0.5).move(-0.2 * d, 0.25 * w, h + roof * 0.35)
        return [*parts, chimney.paint("roof").describe("with a chimney")]
    return [body.describe("without a chimney"), *parts[1:]]


def _tree(g: np.random.Generator) -> list[Part]:
    """Return the parts of a conifer or of a broad-leaved tree."""
    trunk = g.uniform(0.5, 0.9)
    parts = [cylinder(g.uniform(0.13, 0.2), trunk + 0.3).paint("wood")]
    if g.random() < 0.5:
        n, r, z = int(g.integers(2, 4)), g.uniform(0.65, 0.85), trunk
        for _ in range(n):
            step = g.uniform(0.65, 0.85)
            parts.append(cylinder(r, step, top=0.0).move(z=z).describe("with a pointed crown"))
            z, r = z + 0.55 * step, r * 0.8
    else:
        r = g.uniform(0.55, 0.75)
        crown = sphere(r).scale(1, 1, g.uniform(0.85, 1.15)).move(z=trunk + r * 0.85)
        parts.append(crown.describe("with a round crown"))
        for k in range(3):
            a = k * 2.1 + g.uniform(0, 1)
            parts.append(
                sphere(r * 0.6, 10, 20).move(0.6 * r * np.cos(a), 0.6 * r * np.sin(a), trunk + r * g.uniform(0.5, 1.1))
            )
    return parts


def _snowman(g: np.random.Generator) -> list[Part]:
    """Return the parts of a snowman of three balls, sometimes with a hat."""
    a, b, c = 1.0, g.uniform(0.68, 0.8), g.uniform(0.48, 0.58)
    zb, zc = 0.8 * (a + b), 0.8 * (a + b) + 0.8 * (b + c)
    parts = [sphere(a), sphere(b).move(z=zb), sphere(c).move(z=zc)]
    parts.append(
        cylinder(0.15, g.uniform(0.5, 0.75), top=0.0, segments=12).rotate("y", 90).move(0.9 * c, 0, zc).paint("nose")
    )
    for side in (-1, 1):
        parts.append(sphere(0.105, 6, 12).move(0.85 * c, side * 0.42 * c, zc + 0.33 * c).paint("dark"))
    for z in (0.15, 0.6):
        parts.append(sphere(0.1, 6, 12).move(b * 0.94, 0, zb + (z - 0.35) * b).paint("dark"))
    if g.random() < 0.6:
        brim = cylinder(c * 1.05, 0.1).move(z=zc + 0.72 * c).paint("dark")
        top = cylinder(c * 0.68, g.uniform(0.45, 0.7)).move(z=zc + 0.75 * c).paint("dark")
        return [*parts, brim.describe("with a hat"), top]
    return [parts[0].describe("without a hat"), *parts[1:]]


def _mushroom(g: np.random.Generator) -> list[Part]:
    """Return the parts of a mushroom, sometimes with dots."""
    h, r = g.uniform(0.8, 1.2), g.uniform(0.26, 0.38)
    a = np.linspace(0, np.pi / 2, 9)
    wide, tall = g.uniform(0.85, 1.1), g.uniform(0.55, 0.85)
    cap = np.stack([wide * np.cos(a), tall * np.sin(a)], 1)
    cap[-1, 0] = 0
    parts = [revolve(np.vstack([[(0, 0.06)], [(wide * 0.9, -0.05)], cap])).move(z=h)]
    parts.append(revolve([(0, 0), (r * 1.2, 0), (r, 0.4 * h), (r * 0.85, h + 0.1), (0, h + 0.1)]).paint("stem"))
    if g.random() < 0.35:
        for k in range(6):
            t, e = k * 1.05 + g.uniform(-0.2, 0.2), g.uniform(0.4, 0.9)
            dot = sphere(0.13, 6, 12).paint("stem").describe("with dots")
            x, y = wide * np.cos(e) * np.cos(t), wide * np.cos(e) * np.sin(t)
            parts.append(dot.move(x, y, h + tall * np.sin(e) * 0.97))
        return parts
    return [parts[0].describe("without dots"), *parts[1:]]


def _rocket(g: np.random.Generator) -> list[Part]:
    """Return the parts of an upright rocket with four fins."""
    r, h, n = g.uniform(0.36, 0.46), g.uniform(1.5, 2.0), g.uniform(0.6, 0.85)
    body = revolve([(0, 0), (r * 0.75, 0), (r, 0.4), (r, h), (0, h)])
    a = np.linspace(0, np.pi / 2, 8)
    nose = np.stack([r * np.cos(a), n * np.sin(a)], 1)
    nose[-1, 0] = 0
    parts = [body, revolve(np.vstack([[(0, 0)], nose])).move(z=h).paint("trim")]
    fin = extrude([(0, 0.55), (0, 0.05), (0.45, -0.3), (0.45, 0.05)], 0.1).move(z=-0.05)
    for k in range(4):
        parts.append(fin.rotate("x", 90).move(x=r * 0.75).rotate("z", 45 + 90 * k).paint("trim"))
    parts.append(cylinder(0.24, 0.12).rotate("y", 90).move(r - 0.06, 0, 0.72 * h).paint("glass"))
    parts.append(cylinder(r * 0.5, 0.2, top=r * 0.4).move(z=-0.18).paint("dark"))
    return parts


def _car(g: np.random.Generator) -> list[Part]:
    """Return the parts of a car with its headlights at the front."""
    length, w, h = g.uniform(2.0, 2.4), g.uniform(0.95, 1.1), g.uniform(0.36, 0.46)
    lift, r = 0.2, g.uniform(0.25, 0.3)
    cab = g.uniform(0.4, 0.5)
    parts = [box(length, w, h).move(z=lift)]
    # The cabin is at the rear, and its slanted windscreen faces the front.
    x0, x1 = -0.46 * length, g.uniform(0.1, 0.2) * length
    side = [(x0, 0), (x1, 0), (x1 - 0.35, cab), (x0 + 0.15, cab)]
    cabin = extrude(side, w * 0.9).rotate("x", 90).move(y=w * 0.45, z=lift + h)
    parts.append(cabin.paint("glass"))
    parts.append(box(x1 - x0 - 0.48, w * 0.92, 0.09).move((x0 + x1) / 2 - 0.1, 0, lift + h + cab - 0.02))
    for sx in (-0.3, 0.3):
        for sy in (-1, 1):
            wheel = cylinder(r, 0.2, segments=20).rotate("x", 90).move(sx * length, sy * w / 2 + 0.1, r)
            parts.append(wheel.paint("dark"))
    for sy in (-1, 1):
        parts.append(box(0.08, 0.24, 0.16).move(length / 2, sy * 0.33 * w, lift + 0.5 * h).paint("light"))
        parts.append(box(0.06, 0.2, 0.12).move(-length / 2, sy * 0.36 * w, lift + 0.5 * h).paint("tail"))
    return parts


def _lamp(g: np.random.Generator) -> list[Part]:
    """Return the parts of a table lamp with a shade."""
    h, r = g.uniform(1.0, 1.6), g.uniform(0.55, 0.75)
    shade = g.uniform(0.6, 0.85)
    parts = [cylinder(g.uniform(0.38, 0.5), 0.12).paint("metal"), cylinder(0.075, h + 0.2).paint("metal")]
    top = r * g.uniform(0.4, 0.7)
    parts.append(revolve([(r, 0), (top, shade), (top - 0.05, shade), (r - 0.06, 0)], closed=True).move(z=h))
    parts.append(sphere(0.22, 8, 16).move(z=h + 0.25).paint("light"))
    return parts


def _teapot(g: np.random.Generator) -> list[Part]:
    """Return the parts of a teapot with its spout at the front."""
    flat = g.uniform(0.75, 0.95)
    parts = [sphere(1.0).scale(1, 1, flat), cylinder(0.6, 0.15).move(z=-flat - 0.02)]
    parts.append(sphere(0.62, 8, 24).scale(1, 1, 0.35).move(z=flat * 0.86))
    parts.append(sphere(0.16, 8, 12).move(z=flat * 0.86 + 0.3))
    k = np.linspace(0, 1, 8)
    reach, rise = g.uniform(0.65, 0.85), g.uniform(0.75, 0.95)
    spout = np.stack([0.75 + reach * k, 0 * k, -0.25 + rise * k**1.5 * 1.05], 1)
    parts.append(tube(spout, 0.3 - 0.16 * k, 12))
    a = np.linspace(np.pi / 2, 3 * np.pi / 2, 11)
    handle = np.stack([-0.85 + g.uniform(0.6, 0.75) * np.cos(a), 0 * a, 0.05 + 0.5 * np.sin(a)], 1)
    parts.append(tube(handle, g.uniform(0.11, 0.15)))
    return parts


def _boat(g: np.random.Generator) -> list[Part]:
    """Return the parts of a sailing boat with its bow at the front."""
    length, w, h = g.uniform(2.0, 2.4), g.uniform(0.75, 0.95), g.uniform(0.4, 0.5)
    half = length / 2
    k = np.linspace(0, 1, 9)[:, None]
    bow = np.hstack([0.2 * half + 0.8 * half * k, w / 2 * (1 - k**1.8)])
    outline = np.vstack([[(-half, -w * 0.4)], bow * [1, -1], (bow[:-1])[::-1], [(-half, w * 0.4)]])
    hull = extrude(outline, h)
    # Pull the bottom inwards to narrow the keel.
    v = hull.vertices.copy()
    low = v[:, 2] < h / 2
    v[low] *= [0.78, 0.55, 1]
    parts = [Part(v, hull.normals, hull.faces)]
    mast = g.uniform(1.5, 1.9)
    parts.append(cylinder(0.06, mast, segments=12).move(0.15, 0, h - 0.05).paint("wood"))
    sail = extrude([(0, 0), (0.95 * half, 0), (0, mast * 0.8)], 0.06).rotate("x", 90)
    parts.append(sail.rotate("z", 180).move(0.08, -0.03, h + 0.18).paint("cloth"))
    jib = extrude([(0, 0), (0.6 * half, 0), (0, mast * 0.6)], 0.06).rotate("x", 90)
    parts.append(jib.move(0.22, 0.03, h + 0.15).paint("cloth"))
    return parts


def _plane(g: np.random.Generator) -> list[Part]:
    """Return the parts of an aeroplane with its propeller at the front."""
    r, length = g.uniform(0.2, 0.26), g.uniform(2.0, 2.4)
    body = revolve(
        [(0, 0), (r * 0.35, 0.03), (r, 0.4 * length), (r, 0.8 * length), (r * 0.8, 0.92 * length), (0, length)], 20
    )
    parts = [body.rotate("y", 90).move(x=-length / 2)]
    span, chord = g.uniform(0.9, 1.15), g.uniform(0.42, 0.55)
    wing = extrude(
        [(-chord / 2, -span), (chord * 0.1, -span), (chord / 2, 0), (chord * 0.1, span), (-chord / 2, span)], 0.07
    )
    parts.append(wing.move(x=0.1, z=-0.1))
    tail = extrude([(-0.14, -0.42), (0.08, -0.42), (0.18, 0), (0.08, 0.42), (-0.14, 0.42)], 0.06)
    parts.append(tail.move(x=-length / 2 + 0.16, z=0.03))
    fin = extrude([(-0.2, 0), (0.25, 0), (-0.05, 0.5), (-0.2, 0.5)], 0.06).rotate("x", 90)
    parts.append(fin.move(-length / 2 + 0.2, 0.03, 0.05))
    parts.append(sphere(0.19, 8, 16).scale(1.5, 0.75, 0.8).move(0.26 * length, 0, r * 0.75).paint("glass"))
    parts.append(sphere(0.1, 6, 12).move(x=length / 2).paint("dark"))
    parts.append(box(0.03, 0.07, 0.7).move(length / 2 + 0.03, 0, -0.35).paint("dark"))
    return parts


#: Family functions, keyed by the name of the family in captions. New families must be appended, because the
#: classifier's classes have the same order.
FAMILIES = {
    "ball": _ball,
    "cube": _cube,
    "cylinder": _cylinder,
    "cone": _cone,
    "ring": _ring,
    "mug": _mug,
    "chair": _chair,
    "table": _table,
    "house": _house,
    "tree": _tree,
    "snowman": _snowman,
    "mushroom": _mushroom,
    "rocket": _rocket,
    "car": _car,
    "lamp": _lamp,
    "teapot": _teapot,
    "boat": _boat,
    "plane": _plane,
}

#: Families with an unmistakable front, for which the Janus count is defined.
WITH_FRONT = ("mug", "chair", "house", "snowman", "car", "teapot", "boat", "plane", "rocket")

#: Families that are used in images of two objects, because their shapes are simple enough to be stacked.
STACKABLE = ("ball", "cube", "cylinder", "cone", "mug", "mushroom", "house", "tree")

#: Words for the variants of families, which the parts above carry.
TRAITS = (
    "with a solid back",
    "with a slatted back",
    "with one leg",
    "with four legs",
    "with a chimney",
    "without a chimney",
    "with a pointed crown",
    "with a round crown",
    "with a hat",
    "without a hat",
    "with dots",
    "without dots",
)

#: sRGB values in [0, 1], keyed by the name of the colour in captions.
COLOURS = {
    "red": (0.85, 0.12, 0.12),
    "orange": (0.95, 0.52, 0.10),
    "yellow": (0.95, 0.85, 0.15),
    "green": (0.15, 0.62, 0.20),
    "blue": (0.15, 0.30, 0.85),
    "purple": (0.52, 0.20, 0.70),
    "pink": (0.97, 0.56, 0.72),
    "brown": (0.45, 0.27, 0.13),
    "white": (0.94, 0.94, 0.94),
    "black": (0.10, 0.10, 0.11),
    "gray": (0.52, 0.52, 0.53),
}

#: Candidate colours for parts whose colour is not named in the caption, keyed by role. One candidate is sampled per
#: role and object.
NATURAL = {
    "roof": [(0.50, 0.20, 0.14), (0.32, 0.30, 0.32), (0.42, 0.26, 0.16)],
    "door": [(0.36, 0.20, 0.10), (0.25, 0.14, 0.08)],
    "window": [(0.98, 0.90, 0.45), (0.65, 0.85, 0.96)],
    "wood": [(0.42, 0.26, 0.13), (0.50, 0.33, 0.18)],
    "dark": [(0.08, 0.08, 0.09), (0.14, 0.13, 0.13)],
    "nose": [(0.98, 0.50, 0.08)],
    "stem": [(0.95, 0.91, 0.80), (0.90, 0.86, 0.76)],
    "trim": [(0.80, 0.80, 0.83), (0.62, 0.64, 0.68)],
    "glass": [(0.60, 0.80, 0.92), (0.45, 0.65, 0.80)],
    "light": [(1.0, 0.95, 0.60)],
    "tail": [(0.75, 0.08, 0.08)],
    "metal": [(0.60, 0.60, 0.62), (0.35, 0.34, 0.34)],
    "cloth": [(0.96, 0.96, 0.93)],
}
