"""Procedural scenes with exact ground truth: what is drawn, where, in which colour, and which pixels it covers.

A scene is a large object, whose kind is the label, and sometimes a small one beside it, on a plain background. Scene i
is a function of (seed, i) alone, described in units of the image's side, so that it is the same scene at any size.

With `shapes.holdout` some combinations never occur in `train` and `test`; every scene of a third split, `holdout`, has
at least one of them. A model that obeys captions of that split composes what it has learned.
"""

import functools
from typing import NamedTuple

import numpy as np

from genimg_jax.data.types import Options, Stored

KINDS = ("circle", "square", "triangle", "cross", "ring")
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
RELATIONS = ("left of", "below", "right of", "above")  # by the quarter turn from the large object to the small one
DRAWS = 14  # uniform numbers that decide a scene
HOLDOUT = 0x401D  # separates the choice of combinations from the scenes
DEFAULT_SIZE = 32


def open_shapes(options: Options) -> Stored:
    """`shapes.count` scenes as `train`, and a tenth as many others as `test`, drawn at `size` or 32; with
    `shapes.holdout` as many as in `test` as `holdout`."""
    count, seed = options.shapes.count, options.shapes.seed
    side, tenth = options.size or DEFAULT_SIZE, max(1, count // 10)
    splits = {"train": range(count), "test": range(count, count + tenth)}
    holdout = None
    if options.shapes.holdout:
        splits["holdout"] = range(count + tenth, count + 2 * tenth)
        holdout = Holdout(*combinations(seed), splits["holdout"].start)

    def names(positions: np.ndarray) -> list[str]:
        return [f"scene {position} of seed {seed}" for position in positions]

    return Stored(
        splits=splits,
        read=functools.partial(_read, seed, side, "map" in options.fields, holdout),
        fields={"map": 3},
        classes=KINDS,
        names=names,
        listing=f"shapes {seed} {side}" + (f" holdout from {holdout.start}" if holdout else ""),
        captions=lambda positions: captions(scenes(seed, positions, holdout)),
        annotations=lambda positions: annotations(scenes(seed, positions, holdout), side),
        held_out=described(holdout) if holdout else (),
    )


class Holdout(NamedTuple):
    """The combinations that only scenes from position `start` on have; see `combinations`."""

    pairs: np.ndarray  # bool[kinds, colours]
    triples: np.ndarray  # bool[kinds, relations, kinds]
    start: int


def combinations(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A tenth of the pairs of an object's kind and colour, and a fifth of the triples of the large object's kind, the
    relation and the small object's kind.

    No two pairs share a kind or a colour. In every relation each kind is left out once as the large object and once as
    the small one. So every kind, colour and relation is still seen in training, beside most of the others.
    """  # -> bool[kinds, colours], bool[kinds, relations, kinds]
    generator, kinds = np.random.default_rng([seed, HOLDOUT]), np.arange(len(KINDS))
    pairs = np.zeros((len(KINDS), OBJECT_COLOURS), bool)
    count = pairs.size // 10
    pairs[generator.permutation(len(KINDS))[:count], generator.permutation(OBJECT_COLOURS)[:count]] = True
    triples = np.zeros((len(KINDS), len(RELATIONS), len(KINDS)), bool)
    for relation, shift in enumerate(generator.permutation(len(KINDS))[: len(RELATIONS)]):
        triples[kinds, relation, (kinds + shift) % len(KINDS)] = True
    return pairs, triples


def described(holdout: Holdout) -> tuple[str, ...]:
    """Each combination in words, such as "red circle" and "circle above cross"."""
    colours = list(COLOURS)
    pairs = [f"{colours[colour]} {KINDS[kind]}" for kind, colour in np.argwhere(holdout.pairs)]
    triples = [f"{KINDS[a]} {RELATIONS[relation]} {KINDS[b]}" for a, relation, b in np.argwhere(holdout.triples)]
    return (*pairs, *triples)


def has_combination(scene: dict[str, np.ndarray], holdout: Holdout) -> np.ndarray:  # -> bool[B]
    kind, present = scene["kind"], scene["kind"] >= 0
    pairs = (holdout.pairs[kind, scene["colour"]] & present).any(axis=1)
    return pairs | (holdout.triples[kind[:, 0], scene["relation"], kind[:, 1]] & present.all(axis=1))


def scenes(seed: int, positions: np.ndarray, holdout: Holdout | None = None) -> dict[str, np.ndarray]:
    """The scenes at some positions. The first of the two objects is the large one; kind -1 means there is no second.

    `kind` and `colour` i32[B, 2] index KINDS and COLOURS, `background` i32[B] indexes COLOURS, `centre` f32[B, 2, 2] is
    (x, y) from the upper left corner and `radius` f32[B, 2] that of the circle around it, in units of the side, `angle`
    f32[B, 2] is in radians, and `relation` i32[B] indexes RELATIONS (-1 where there is one object). A scene that the
    holdout does not allow at its position is drawn again.
    """
    generators = [np.random.default_rng([seed, position]) for position in positions.tolist()]
    draws = np.stack([generator.random(DRAWS) for generator in generators])
    scene = _scenes(draws)
    while holdout and (wrong := np.flatnonzero(has_combination(scene, holdout) != (positions >= holdout.start))).size:
        draws[wrong] = [generators[i].random(DRAWS) for i in wrong]
        scene = _scenes(draws)
    return scene


def _scenes(draws: np.ndarray) -> dict[str, np.ndarray]:  # f64[B, DRAWS] in [0, 1)
    u = iter(draws.T.astype(np.float32))

    def choice(options: int) -> np.ndarray:  # -> i32[B]
        return np.minimum(next(u) * options, options - 1).astype(np.int32)

    two = next(u) < 0.5
    kind = np.stack([choice(len(KINDS)), choice(len(KINDS))], 1)
    first = choice(OBJECT_COLOURS)
    second = (first + 1 + choice(OBJECT_COLOURS - 1)) % OBJECT_COLOURS  # another colour
    background = OBJECT_COLOURS + choice(len(COLOURS) - OBJECT_COLOURS)
    relation = choice(len(RELATIONS))
    radius = np.stack([0.2 + 0.08 * next(u), 0.1 + 0.04 * next(u)], 1)
    turn = (relation * (np.pi / 2) + (next(u) - 0.5) * (np.pi / 6)).astype(np.float32)
    towards_small = np.stack([np.cos(turn), -np.sin(turn)], 1)
    angle = (np.stack([next(u), next(u)], 1) - 0.5) * np.float32(np.pi / 3)
    scatter = np.stack([next(u), next(u)], 1) - 0.5
    # A lone object may be anywhere; two stand so far apart that the circles around them never touch.
    lone = 0.5 + 0.4 * scatter
    apart = 0.5 + 0.06 * scatter[:, None] + towards_small[:, None] * np.array([-0.18, 0.3], np.float32)[:, None]
    kind[~two, 1] = -1
    return {
        "kind": kind,
        "colour": np.stack([first, second], 1),
        "background": background,
        "centre": np.where(two[:, None, None], apart, lone[:, None]),
        "radius": radius,
        "angle": angle,
        "relation": np.where(two, relation, -1).astype(np.int32),
    }


def _box(x: np.ndarray, y: np.ndarray, width: float, height: float) -> np.ndarray:  # signed distance, as all below
    across, along = np.abs(x) - width, np.abs(y) - height
    return np.hypot(np.maximum(across, 0), np.maximum(along, 0)) + np.minimum(np.maximum(across, along), 0)


def _triangle(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    return np.maximum(y, np.abs(x) * np.float32(3**0.5 / 2) - y / 2) - 0.5


# Signed distances to shapes within the unit circle, f32[...] -> f32[...], negative inside, in the order of KINDS.
DISTANCES = (
    lambda x, y: np.hypot(x, y) - 1,
    lambda x, y: _box(x, y, 0.5**0.5, 0.5**0.5),
    _triangle,
    lambda x, y: np.minimum(_box(x, y, 0.95, 0.3), _box(x, y, 0.3, 0.95)),
    lambda x, y: np.abs(np.hypot(x, y) - 0.75) - 0.25,
)


def coverage(scene: dict[str, np.ndarray], which: int, side: int) -> np.ndarray:
    """How much of each pixel an object covers, from its signed distance: a ramp one pixel wide at the edge."""
    # -> f32[B, side, side]
    at = (np.arange(side, dtype=np.float32) + 0.5) / side
    covered = np.zeros((len(scene["kind"]), side, side), np.float32)
    for kind, distance in enumerate(DISTANCES):
        (rows,) = np.nonzero(scene["kind"][:, which] == kind)
        centre, radius = scene["centre"][rows, which], scene["radius"][rows, which, None, None]
        cos, sin = (f(scene["angle"][rows, which, None, None]) for f in (np.cos, np.sin))
        x, y = at[None, None, :] - centre[:, 0, None, None], at[None, :, None] - centre[:, 1, None, None]
        inside = -distance((cos * x + sin * y) / radius, (cos * y - sin * x) / radius) * radius
        covered[rows] = np.clip(0.5 + side * inside, 0, 1)
    return covered


def draw(scene: dict[str, np.ndarray], side: int) -> np.ndarray:  # -> u8[B, side, side, 3]
    palette = np.array(list(COLOURS.values()), np.float32)
    image = np.broadcast_to(palette[scene["background"], None, None], (len(scene["kind"]), side, side, 3))
    for which in (0, 1):
        covered = coverage(scene, which, side)[..., None]
        image = image + covered * (palette[scene["colour"][:, which], None, None] - image)
    return np.rint(image).astype(np.uint8)


def annotations(scene: dict[str, np.ndarray], side: int) -> dict[str, np.ndarray]:
    """The scene and its segmentation: `mask` u8[B, side, side] is 0 for background, 1 and 2 for the objects."""
    return {**scene, "mask": segmentation(scene, side)}


def segmentation(scene: dict[str, np.ndarray], side: int) -> np.ndarray:  # -> u8[B, side, side]
    return sum((i + 1) * (coverage(scene, i, side) > 0.5).astype(np.uint8) for i in (0, 1))


def captions(scene: dict[str, np.ndarray]) -> list[str]:
    """Such as "a large red circle above a small blue cross on a grey background"."""
    colours = list(COLOURS)
    texts = []
    for kind, colour, background, relation in zip(
        *(scene[key].tolist() for key in ("kind", "colour", "background", "relation")), strict=True
    ):
        second = f" {RELATIONS[relation]} a small {colours[colour[1]]} {KINDS[kind[1]]}" if relation >= 0 else ""
        texts.append(f"a large {colours[colour[0]]} {KINDS[kind[0]]}{second} on a {colours[background]} background")
    return texts


def _read(
    seed: int, side: int, segmented: bool, holdout: Holdout | None, positions: np.ndarray
) -> dict[str, np.ndarray]:  # i64[B] -> u8[B, side, side, 3], i32[B]
    scene = scenes(seed, positions, holdout)
    segments = {"map": segmentation(scene, side)} if segmented else {}
    return {"image": draw(scene, side), "label": scene["kind"][:, 0], **segments}
