"""What the data layer passes around: the options, a source as training sees it, and a source as it lies on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from genimg_jax.options import bounded, choice, location

if TYPE_CHECKING:  # not otherwise: a mistaken option is refused without loading JAX
    from genimg_jax import core


@dataclass(frozen=True)
class Options:
    """Which images are read and how they are made alike."""

    source: str = choice("digits", "digits", "shapes", "tfds", "folder", "npz")
    name: str = ""  # tfds: the dataset's name; empty: `path` is the prepared folder itself
    path: str = location()  # tfds: data_dir or prepared folder; folder: the image folder; npz: the file
    train_split: str = "train"  # as in TensorFlow Datasets: train, train[:90%], train[100:200], train+test
    validation_split: str = "auto"  # for choices; auto: a tenth of train_split, which training then leaves out; none
    evaluate_split: str = "test"  # what `genimg evaluate` reports on; training never reads it
    allow_overlap: bool = False  # whether two of the three splits may share images; every report then says so
    size: int = bounded(0, 0)  # 0: as stored (shapes: 32); else the shorter side is resized to it, the middle kept
    channels: int = choice(0, 0, 1, 3)  # 0: as stored; 1: grey (ITU-R 601 luma); 3: colour
    flip: bool = False  # random horizontal flips, in training only
    binarize: str = choice("none", "none", "dynamic", "static", "threshold")  # drawn anew each time; once; at half
    limit: int = bounded(0, 0)  # so many of the split's examples, a fixed random choice by class; 0: all
    shapes_count: int = bounded(10_000, 1)  # shapes: scenes in `train`; `test` has a tenth as many others
    shapes_seed: int = bounded(0, 0)  # shapes: scene i is a function of (seed, i)
    memory_mib: int = bounded(2048, 0)  # images that fit in this are decoded once and kept; others are streamed
    workers: int = bounded(2, 0)  # decoding processes for a streamed source; 0: threads of this process
    bad_images: str = choice("error", "error", "skip")  # stop at an unreadable image; or report it and use the next
    pixel_limit: int = bounded(2**25, 1)  # larger images are refused before decoding (up to Pillow's own 178 million)


class Source(NamedTuple):
    """One split, ready to be gathered from. `read` is all that training needs; the rest describes it.

    `read` maps example indices i64[B] (each in [0, size)) to {"image": u8[B, H, W, C] in [0, stored_levels),
    "label": i32[B] where there are classes}. It may be called from any thread, and be sent to another process.
    """

    spec: core.Spec
    size: int
    split_size: int
    """Examples of the split that was named, before a validation split or `limit` left some out."""
    fingerprint: str
    """SHA-256 (16 hexadecimal digits) of the pixels and labels if in memory, otherwise `listing`; `identity.content` is
    the former in either case."""
    listing: str
    """SHA-256 (16 hexadecimal digits) of how the examples lie on disk, and of the shape and levels that they are given:
    the same in memory and streamed."""
    read: Callable[[np.ndarray], dict[str, np.ndarray]]
    stored_levels: int
    in_memory: bool
    classes: tuple[str, ...]
    """Class names by label, of all splits; () where there are none."""
    class_counts: tuple[int, ...] | None
    """Examples of each class; None where they would have to be read for it."""
    names: Callable[[np.ndarray], list[str]]
    """Example indices i64[B] -> what a message calls them: the file, or the split and number."""
    captions: Callable[[np.ndarray], list[str]] | None
    """Example indices i64[B] -> captions; None where there are none."""
    annotations: Callable[[np.ndarray], dict[str, np.ndarray]] | None
    """Example indices i64[B] -> ground truth that a condition can be scored against: of `shapes` all of a scene, of an
    archive the `mask` that it holds; None elsewhere."""
    skipped: tuple[str, ...]
    """The names of unreadable images replaced by their successors: all if in memory, only what is known if streamed."""
    workers: int
    split: str
    """The split, for reports; it says so where it shares images with another part of the run."""


class Stored(NamedTuple):
    """A source as it lies on disk: all its splits, in one numbering of positions.

    `read` maps positions i64[B] to B images u8[H, W, 1 or 3], of any sizes, and B labels (i32, -1: none), or raises a
    DataError that names the example. Every other field that takes positions takes i64[B] too.
    """

    splits: Mapping[str, range]
    read: Callable[[np.ndarray], tuple[Sequence[np.ndarray], np.ndarray]]
    classes: tuple[str, ...]
    names: Callable[[np.ndarray], list[str]]
    listing: str
    """What identifies the content without reading it: names, sizes, versions."""
    labels: np.ndarray | None = None
    """i32[positions] (-1: none), where they are known without reading images."""
    levels: int = 256
    captions: Callable[[np.ndarray], list[str]] | None = None
    annotations: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None
