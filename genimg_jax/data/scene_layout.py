"""Layouts of scenes from uniform random numbers: objects with their positions, sizes and colours.

Lengths are in units of the image's side. The circles around two objects never touch.
"""

from collections.abc import Iterator, Mapping

import numpy as np

KINDS = ("circle", "square", "triangle", "cross", "ring")
PLURALS = ("circles", "squares", "triangles", "crosses", "rings")
COLOURS = {
    "red": (220, 40, 40),
    "green": (40, 170, 60),
    "blue": (50, 80, 220),
    "yellow": (240, 210, 40),
    "purple": (150, 60, 190),
    "orange": (240, 130, 30),
    "white": (250, 250, 250),
    "grey": (128, 128, 128),
    "black": (10, 10, 10),
}
OBJECT_COLOURS = 6  # the first of COLOURS; the others are backgrounds
RELATIONS = ("left of", "below", "right of", "above")  # by the quarter turn from the large object to a small one
NUMBERS = ("two", "three", "four")  # of equal objects
DRAWS, DRAWS_OF_THIRD, DRAWS_OF_COUNT = 14, 9, 4  # uniform numbers that decide a scene, its third object, its count


def most_objects(objects: int, counts: bool) -> int:
    return 1 + len(NUMBERS) if counts else objects


def draws_of_scene(objects: int, counts: bool) -> int:
    return DRAWS + DRAWS_OF_THIRD * (objects > 2) + DRAWS_OF_COUNT * counts


def arrange(draws: np.ndarray, objects: int, counts: bool) -> dict[str, np.ndarray]:
    """The scenes of `shapes.scenes` from f64[B, draws_of_scene(objects, counts)] in [0, 1)."""
    u = iter(draws.T.astype(np.float32))
    two = next(u) < 0.5
    kind = np.stack([_choice(u, len(KINDS)), _choice(u, len(KINDS))], 1)
    first = _choice(u, OBJECT_COLOURS)
    second = (first + 1 + _choice(u, OBJECT_COLOURS - 1)) % OBJECT_COLOURS  # another colour
    background = OBJECT_COLOURS + _choice(u, len(COLOURS) - OBJECT_COLOURS)
    relation = _choice(u, len(RELATIONS))
    radius = np.stack([0.2 + 0.08 * next(u), 0.1 + 0.04 * next(u)], 1)
    towards_small = _towards(relation, u)
    angle = np.stack([_angle(u), _angle(u)], 1)
    scatter = np.stack([next(u), next(u)], 1) - 0.5
    # A lone object may be anywhere; two are far apart.
    lone = 0.5 + 0.4 * scatter
    apart = 0.5 + 0.06 * scatter[:, None] + towards_small[:, None] * np.array([-0.18, 0.3], np.float32)[:, None]
    kind[~two, 1] = -1
    scene = {
        "kind": kind,
        "colour": np.stack([first, second], 1),
        "background": background,
        "centre": np.where(two[:, None, None], apart, lone[:, None]),
        "radius": radius,
        "angle": angle,
        "relation": np.where(two, relation, -1).astype(np.int32),
    }
    if objects > 2:
        scene = _with_third(scene, u, scatter, towards_small)
    return _with_counts(scene, u, scatter) if counts else scene


def with_slots(scene: Mapping[str, np.ndarray], slots: int = 0) -> dict[str, np.ndarray]:
    """The scenes padded to at least `slots` objects. `relation` always has two axes: i32[B, N - 1].

    `kind`, `colour` and `relation` of padding are -1; all else is 0.
    """
    num_objects = scene["kind"].shape[1]
    missing = max(0, slots - num_objects)
    padded = {**scene, "relation": scene["relation"].reshape(-1, num_objects - 1)}
    for name in padded.keys() & {"kind", "colour", "centre", "radius", "angle", "relation"}:
        x = padded[name]
        filling = np.full((len(x), missing, *x.shape[2:]), -1 if x.dtype.kind == "i" else 0, x.dtype)
        padded[name] = np.concatenate([x, filling], 1)
    return padded


def counted(scene: Mapping[str, np.ndarray]) -> np.ndarray:  # -> i64[B]
    """The number of equal objects; 0 for scenes that have a large one."""
    number = (scene["kind"] >= 0).sum(axis=1)
    related = (with_slots(scene)["relation"] >= 0).any(axis=1)
    return np.where((number > 1) & ~related, number, 0)


def _with_third(scene: dict, u: Iterator[np.ndarray], scatter: np.ndarray, towards_small: np.ndarray) -> dict:
    """Half of the scenes with a small object get another one on another side of the large one, of a third colour.

    All three are smaller then, and the large one is in the middle, so that there is room on every side.
    """
    scene = with_slots(scene, 3)
    three = (next(u) < 0.5) & (scene["kind"][:, 1] >= 0)
    scene["kind"][:, 2] = np.where(three, _choice(u, len(KINDS)), -1)
    first, second = scene["colour"][:, 0], scene["colour"][:, 1]
    step = 1 + _choice(u, OBJECT_COLOURS - 2)
    scene["colour"][:, 2] = (first + step + (step >= (second - first) % OBJECT_COLOURS)) % OBJECT_COLOURS
    relation = (scene["relation"][:, 0] + 1 + _choice(u, len(RELATIONS) - 1)) % len(RELATIONS)
    scene["relation"][:, 1] = np.where(three, relation, -1)
    towards = np.stack([np.zeros_like(towards_small), towards_small, _towards(relation, u)], 1)
    centre = 0.5 + 0.04 * scatter[:, None] + 0.36 * towards
    radius = np.stack([0.19 + 0.01 * next(u), 0.09 + 0.01 * next(u), 0.09 + 0.01 * next(u)], 1)
    scene["centre"] = np.where(three[:, None, None], centre, scene["centre"])
    scene["radius"] = np.where(three[:, None], radius, scene["radius"])
    scene["angle"][:, 2] = _angle(u)
    return scene


def _with_counts(scene: dict, u: Iterator[np.ndarray], scatter: np.ndarray) -> dict:
    """Half of the scenes show two to four equal small objects instead, evenly spread on a circle."""
    scene = with_slots(scene, 1 + len(NUMBERS))
    counted = next(u) < 0.5
    number = 2 + _choice(u, len(NUMBERS))[:, None]
    place = np.arange(1 + len(NUMBERS))
    turn = (2 * np.pi * (place + next(u)[:, None]) / number).astype(np.float32)
    equal = {
        "kind": np.where(place < number, scene["kind"][:, :1], -1),
        "colour": scene["colour"][:, :1],
        "centre": 0.5 + 0.06 * scatter[:, None] + 0.3 * np.stack([np.cos(turn), -np.sin(turn)], 2),
        "radius": 0.1 + 0.04 * next(u)[:, None],
        "angle": scene["angle"][:, :1],
        "relation": np.full_like(scene["relation"], -1),
    }
    return scene | {
        name: np.where(counted.reshape(-1, *[1] * (x.ndim - 1)), x, scene[name]) for name, x in equal.items()
    }


def _choice(u: Iterator[np.ndarray], options: int) -> np.ndarray:  # -> i32[B]
    return np.minimum(next(u) * options, options - 1).astype(np.int32)


def _angle(u: Iterator[np.ndarray]) -> np.ndarray:  # -> f32[B]
    return (next(u) - 0.5) * np.float32(np.pi / 3)


def _towards(relation: np.ndarray, u: Iterator[np.ndarray]) -> np.ndarray:  # i32[B] -> f32[B, 2], of length 1
    turn = (relation * (np.pi / 2) + (next(u) - 0.5) * (np.pi / 6)).astype(np.float32)
    return np.stack([np.cos(turn), -np.sin(turn)], 1)
