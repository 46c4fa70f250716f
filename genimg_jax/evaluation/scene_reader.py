"""Scenes are read back from the pixels of images, as the source `shapes` describes those that it draws.

A pixel of a scene is the background or a blend of it with one object's colour, for objects never touch. The share of
that colour is the object's coverage, to the rounding of 8 bits: its sum tells the object's size, its mean the centre,
and the kind is the one whose drawing explains it best. Any other image is read as the scene that is nearest to it.
"""

import math

import numpy as np
import scipy.ndimage

from genimg_jax import progress
from genimg_jax.data import shapes
from genimg_jax.errors import DataError

PALETTE = np.array(list(shapes.COLOURS.values()), np.float32)
AREAS = np.array([math.pi, 2, 27**0.5 / 4, 1.92, 0.75 * math.pi], np.float32)  # of KINDS, in a circle of radius 1
FAINT = 0.2  # of a pixel: less, and not beside more, is no object's edge but a background that is a little off
LEAST = 0.006  # of the image's pixels that an object covers: half of the smallest one's
ANGLES = np.linspace(-math.pi / 6, math.pi / 6, 9)  # no object is turned by more
TURNED = [shapes.KINDS.index(kind) for kind in ("square", "triangle", "cross")]  # what an angle matters to
FINE = np.linspace(-math.pi / 48, math.pi / 48, 5)
SCALES = np.linspace(0.94, 1.06, 7)  # around the radius that the area tells, as if corners were drawn sharp
LEAST_SIDE = 16  # in 8x8 pixels a third of the small objects' kinds are misread
CHUNK = 64  # images at a time


def read(images: np.ndarray) -> dict[str, np.ndarray]:
    """The scenes that images show, as `shapes.scenes` describes them, with `mask` u8[B, S, S] as in its annotations.

    `residual` f32[B] is the root mean square difference, in levels of 255, between an image and the drawing of what
    was read: at most a few levels for a scene. The second object's colour is -1 where there is none; where there is no
    object at all, so is the first's, and both kinds. Raises `DataError` for images that are not square and coloured, or
    so small that the small object's kind cannot be told.
    """  # u8[B, S, S, 3] -> {name: [B, ...]}
    square = images.ndim == 4 and images.shape[1] == images.shape[2] >= LEAST_SIDE
    if images.dtype != np.uint8 or not square or images.shape[3] != 3:
        raise DataError(
            f"scenes are square u8 images of 3 channels, from {LEAST_SIDE}x{LEAST_SIDE} on; found {images.dtype} of "
            f"shape {images.shape}."
        )
    parts = []
    with progress.bar("scenes", total=len(images), unit="image", leave=False) as bar:
        for start in range(0, len(images), CHUNK):
            part = images[start : start + CHUNK]
            parts.append(_read(part))
            bar.update(len(part))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def _read(images: np.ndarray) -> dict[str, np.ndarray]:
    count, side = images.shape[:2]
    pixels = images.reshape(count, -1, 3).astype(np.float32)
    background, colour, share = _coverages(pixels)
    share = share.reshape(count, 2, side, side)
    share = np.where(scipy.ndimage.maximum_filter(share >= FAINT, (1, 1, 3, 3)), share, 0)
    area = share.mean(axis=(2, 3))
    colour = np.where(area >= LEAST, colour, -1)
    share = share * (colour >= 0)[:, :, None, None]
    objects = [_objects(share[:, which], colour[:, which] >= 0) for which in (0, 1)]
    scene = {name: np.stack([one[name] for one in objects], axis=1) for name in objects[0]}
    scene["colour"] = colour
    # The larger one comes first.
    order = np.argsort(np.where(scene["kind"] >= 0, -scene["radius"], 1), axis=1, kind="stable")
    scene = {name: np.take_along_axis(x, order.reshape(count, 2, *(1,) * (x.ndim - 2)), 1) for name, x in scene.items()}
    share = np.take_along_axis(share, order[:, :, None, None], 1)
    scene["background"] = background
    x, y = (scene["centre"][:, 1] - scene["centre"][:, 0]).T
    turn = np.rint(np.arctan2(-y, x) / (math.pi / 2)).astype(np.int32) % 4
    scene["relation"] = np.where((scene["kind"] >= 0).all(axis=1), turn, -1).astype(np.int32)
    difference = shapes.draw(scene, side).astype(np.float32) - images
    scene["residual"] = np.sqrt(np.mean(np.square(difference), axis=(1, 2, 3)))
    scene["mask"] = np.where(share.max(axis=1) > 0.5, 1 + share.argmax(axis=1), 0).astype(np.uint8)
    return scene


def _coverages(pixels: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The background, the two colours that cover most, and how much of each pixel they cover."""
    # f32[B, P, 3] -> i32[B], i32[B, 2], f32[B, 2, P]
    rows = np.arange(len(pixels))
    nearest = np.square(pixels[:, :, None] - PALETTE).sum(axis=3).argmin(axis=2)
    backgrounds = range(shapes.OBJECT_COLOURS, len(PALETTE))
    background = shapes.OBJECT_COLOURS + np.stack([(nearest == b).sum(axis=1) for b in backgrounds]).argmax(axis=0)
    offset = pixels - PALETTE[background][:, None]  # [B, P, 3]
    direction = PALETTE[: shapes.OBJECT_COLOURS] - PALETTE[background][:, None]  # [B, colours, 3]
    share = np.einsum("bpc,bkc->bkp", offset, direction) / np.square(direction).sum(axis=2)[:, :, None]
    share = np.clip(share, 0, 1)
    error = np.square(offset[:, None] - share[..., None] * direction[:, :, None]).sum(axis=3)
    covered = np.where((error == error.min(axis=1, keepdims=True)) & (share >= FAINT), share, 0).sum(axis=2)
    colour = np.argsort(-covered, axis=1, kind="stable")[:, :2]
    share, error = (x[rows[:, None], colour] for x in (share, error))
    # A second colour that is not there would take its share of the first one's edges.
    absent = covered[rows, colour[:, 1]] < LEAST * pixels.shape[1]
    error[absent, 1] = np.inf
    share = np.where(np.arange(2)[:, None] == error.argmin(axis=1)[:, None], share, 0)
    return background.astype(np.int32), colour.astype(np.int32), share.astype(np.float32)


def _objects(share: np.ndarray, present: np.ndarray) -> dict[str, np.ndarray]:
    """Kind, centre, radius and angle of the object that covers these shares of pixels."""
    # f32[B, S, S], bool[B] -> {name: [B, ...]}
    at = (np.arange(share.shape[1], dtype=np.float32) + 0.5) / share.shape[1]
    # Where there is no object, anything that can be drawn will do.
    total = np.where(present, share.sum(axis=(1, 2)), 1)
    centre = np.stack([(share.sum(axis=1) * at).sum(axis=1), (share.sum(axis=2) * at).sum(axis=1)], 1) / total[:, None]
    area = np.where(present, share.mean(axis=(1, 2)), 0.1)
    coarse = [(kind, angle) for kind in range(len(AREAS)) for angle in (ANGLES if kind in TURNED else [0.0])]
    kinds, angles = (np.broadcast_to(np.array(x), (len(share), len(coarse))) for x in zip(*coarse, strict=True))
    kind, radius, angle = _best(share, centre, kinds, np.sqrt(area[:, None] / AREAS[kinds]), angles)
    turns, scales = (x.ravel() for x in np.meshgrid(FINE, SCALES))
    kinds = np.broadcast_to(kind[:, None], (len(share), len(turns)))
    kind, radius, angle = _best(share, centre, kinds, radius[:, None] * scales, angle[:, None] + turns)
    return {
        "kind": np.where(present, kind, -1).astype(np.int32),
        "centre": centre.astype(np.float32),
        "radius": radius.astype(np.float32),
        "angle": angle.astype(np.float32),
    }


def _best(share: np.ndarray, centre: np.ndarray, kind: np.ndarray, radius: np.ndarray, angle: np.ndarray):
    """Of N candidates an image, the one that drawn covers the most similar pixels."""
    # f32[B, S, S], f32[B, 2], [B, N] x 3 -> [B] x 3
    images, candidates = kind.shape

    def flat(x: np.ndarray) -> np.ndarray:  # [B, N, ...] -> [B N, 1, ...]
        return x.reshape(images * candidates, 1, *x.shape[2:]).astype(np.float32)

    scene = {"kind": flat(kind), "radius": flat(radius), "angle": flat(angle)}
    scene["centre"] = flat(np.repeat(centre[:, None], candidates, axis=1))
    drawn = shapes.coverage(scene, 0, share.shape[1]).reshape(images, candidates, *share.shape[1:])
    chosen = np.square(drawn - share[:, None]).sum(axis=(2, 3)).argmin(axis=1)
    return tuple(x[np.arange(images), chosen] for x in (kind, radius, angle))
