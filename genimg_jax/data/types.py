"""Records of the data layer: the options, a source as training uses it, and a source as it lies on disk."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from genimg_jax import observations
from genimg_jax.options import bounded, choice, location, names

if TYPE_CHECKING:  # not otherwise: a mistaken option is refused without loading JAX
    from tokenizers import Tokenizer

    from genimg_jax import core


@dataclass(frozen=True)
class CaptionOptions:
    """Conversion of captions to the field `tokens`."""

    tokens: str = choice("words", "words", "bpe", "bytes")  # words in lower case; pairs of bytes merged by count; bytes
    length: int = bounded(32, 1)  # tokens of every caption, filled up with 0; a longer one is an error that names it
    vocabulary_size: int = bounded(8192, 2)  # words, bpe: the most tokens; words that are rarer are read as unknown
    columns: tuple[str, ...] = names("text")  # folder: of metadata.jsonl, whose texts and lists of words are joined
    vocabulary: str = location()  # vocabulary.json of another run; "": made from the captions that are trained on


@dataclass(frozen=True)
class ShapesOptions:
    """shapes: procedural scenes."""

    count: int = bounded(10_000, 1)  # scenes in `train`; `test` has a tenth as many others
    seed: int = bounded(0, 0)  # scene i is a function of (seed, i)
    objects: int = choice(2, 2, 3)  # most objects of a scene: a large one and small ones on different sides of it
    counts: bool = False  # half of the scenes are two to four equal small objects instead, for captions to count
    holdout: bool = False  # a third split, `holdout`, has combinations of kinds, colours and relations that others lack


@dataclass(frozen=True)
class PairOptions:
    """pairs: images with partners, which become the field `source` or `map`."""

    partner: str = location()  # folder of a file of each image's name; "": each file holds both side by side
    image_side: str = choice("right", "left", "right")  # where the image then is; the other half is its source
    segments: int = bounded(256, 2, 65536)  # values in the files of a `map` are below it


@dataclass(frozen=True)
class DomainOptions:
    """domains: images of `path`, and of another domain without pairs."""

    partner: str = location()  # folder of the other domain's images, the field `source`


@dataclass(frozen=True)
class FeatureOptions:
    """Conversion of images to the field `features`, by `engine.features`."""

    # A run, whose latents of an image are its features; or a classifier's file, whose penultimate layer's they are;
    # "": those that the source has itself.
    encoder: str = location()
    checkpoint: str = "best"  # of an encoder that is a run: best, last, or a step
    statistics: str = location()  # features.json of another run; "": mean and deviation of the training images'


@dataclass(frozen=True)
class Options:
    """The images of a run, and their conversion to one size and form."""

    source: str = choice("digits", "digits", "shapes", "tfds", "folder", "npz", "pairs", "domains")
    name: str = ""  # tfds: the dataset's name; empty: `path` is the prepared folder itself
    path: str = location()  # tfds: data_dir or prepared folder; npz: the file; else the image folder
    train_split: str = "train"  # as in TensorFlow Datasets: train, train[:90%], train[100:200], train+test
    validation_split: str = "auto"  # for choices; auto: a tenth of train_split, which training then leaves out; none
    evaluate_split: str = "test"  # what `genimg evaluate` reports on; training never reads it
    allow_overlap: bool = False  # whether two of the three splits may share images; every report then says so
    size: int = bounded(0, 0)  # 0: as stored (shapes: 32); else the shorter side is resized to it, the middle kept
    channels: int = choice(0, 0, 1, 3)  # 0: as stored; 1: grey (ITU-R 601 luma); 3: colour
    flip: bool = False  # random horizontal flips, in training only
    binarize: str = choice("none", "none", "dynamic", "static", "threshold")  # drawn anew each time; once; at half
    fields: tuple[str, ...] = names()  # read with every image, of what the source has: tokens, map, features, source
    captions: CaptionOptions = field(default_factory=CaptionOptions)
    shapes: ShapesOptions = field(default_factory=ShapesOptions)
    pairs: PairOptions = field(default_factory=PairOptions)
    domains: DomainOptions = field(default_factory=DomainOptions)
    features: FeatureOptions = field(default_factory=FeatureOptions)
    observation: observations.Options = field(default_factory=observations.Options)  # its kind makes the field `source`
    limit: int = bounded(0, 0)  # so many of the split's examples, a fixed random choice by class; 0: all
    memory_mib: int = bounded(2048, 0)  # images and fields that fit in this are read once and kept; others streamed
    workers: int = bounded(2, 0)  # decoding processes for a streamed source; 0: threads of this process
    bad_images: str = choice("error", "error", "skip")  # stop at an unreadable image; or report it and use the next
    pixel_limit: int = bounded(2**25, 1)  # larger images are refused before decoding (up to Pillow's own 178 million)


def without_fields(options: Options) -> Options:
    """The options of the images alone, without fields or what makes them."""
    return replace(options, fields=(), features=FeatureOptions(), observation=observations.Options())


class Source(NamedTuple):
    """One split, ready to be gathered from. `read` is all that training needs; the rest describes it.

    `read` maps example indices i64[B] (each in [0, size)) to {"image": u8[B, H, W, C] in [0, stored_levels),
    "label": i32[B] where there are classes, and the paired fields of `spec`}. Of these, `tokens` are i32[B, T], images
    u8[B, h, w, c] and other integers of any type. It may be called from any thread, and be sent to another process.
    """

    spec: core.Spec
    size: int
    split_size: int
    """Examples of the split that was named, before a validation split or `limit` left some out."""
    fingerprint: str
    """SHA-256 (16 hexadecimal digits) of the pixels and labels if in memory, otherwise `listing`; `identity.content` is
    the former in either case."""
    field_hashes: Mapping[str, str]
    """SHA-256 (16 hexadecimal digits) of each field if in memory; {} if streamed, since `listing` covers them."""
    listing: str
    """SHA-256 (16 hexadecimal digits) of how the examples lie on disk, and of the shape and levels that they are given:
    the same in memory and streamed."""
    read: Callable[[np.ndarray], dict[str, np.ndarray]]
    domains: Mapping[str, Source]
    """The fields that are not paired with images, each as a source of images."""
    stored_levels: int
    in_memory: bool
    classes: tuple[str, ...]
    """Class names by label, of all splits; () where there are none."""
    class_counts: tuple[int, ...] | None
    """Examples of each class; None where they would have to be read for it."""
    names: Callable[[np.ndarray], list[str]]
    """Example indices i64[B] -> names for messages: the file, or the split and number."""
    captions: Callable[[np.ndarray], list[str]] | None
    """Example indices i64[B] -> captions; None where there are none."""
    vocabulary: Tokenizer | None
    """The vocabulary of the field `tokens`, see `text`; None without that field."""
    annotations: Callable[[np.ndarray], dict[str, np.ndarray]] | None
    """Example indices i64[B] -> ground truth to score conditional samples against: the scene of `shapes`, or the `mask`
    of an archive; None for other sources."""
    held_out: tuple[str, ...]
    """Combinations that `train` and `test` never show, in words; () if there are none."""
    skipped: tuple[str, ...]
    """The names of unreadable images replaced by their successors: all if in memory, only what is known if streamed."""
    workers: int
    split: str
    """The split, for reports; it says so where it shares images with another part of the run."""
    encoder: Mapping[str, Any] | None = None
    """The encoder of the field `features`, see `engine.features`; None without an encoder."""


class Stored(NamedTuple):
    """A source as it lies on disk: all its splits, in one numbering of positions.

    `read` maps positions i64[B] to {"image": B images u8[H, W, 1 or 3] of any sizes, "label": i32[B] where there are
    classes, and those of `fields` that the options name: B arrays each, images and maps of any sizes}, or raises a
    DataError that names the example. Every other function of positions takes i64[B] too.
    """

    splits: Mapping[str, range]
    read: Callable[[np.ndarray], dict[str, Sequence[np.ndarray]]]
    classes: tuple[str, ...]
    names: Callable[[np.ndarray], list[str]]
    listing: str
    """Identifies the content without reading it: names, sizes, versions."""
    labels: np.ndarray | None = None
    """i32[positions] (-1: none), where they are known without reading images."""
    levels: int = 256
    fields: Mapping[str, int] = {}
    """The fields that `read` can give, each with the number of values of its integers; 0: real numbers or an image."""
    domains: Mapping[str, Stored] = {}
    """The fields that are not paired with images, each as a source of images."""
    captions: Callable[[np.ndarray], list[str]] | None = None
    annotations: Callable[[np.ndarray], dict[str, np.ndarray]] | None = None
    held_out: tuple[str, ...] = ()
