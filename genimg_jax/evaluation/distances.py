"""Features x distances: every distance of every feature network, each under a spec of its own."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import scipy.special

from genimg_jax.engine.config import EvaluateOptions
from genimg_jax.errors import CheckpointError, ConfigError
from genimg_jax.evaluation.image_sets import ImageSet, batches
from genimg_jax.metrics import features, intervals
from genimg_jax.metrics.diversity import inception_score, vendi_score
from genimg_jax.metrics.features import FeatureNetwork
from genimg_jax.metrics.frechet import fewest, frechet_distance, frechet_replicates, moments
from genimg_jax.metrics.pair_scores import SelfSimilarity, pair_scores
from genimg_jax.metrics.sliced import sliced_distance
from genimg_jax.metrics.specs import Measurement, MetricSpec, Scalar
from genimg_jax.options import nearest

FEATURES = ("pixels", "random_conv", "classifier")
BLOCKS = 20  # of the jackknife
WIDEST = 2**13  # features that a covariance is made of: 0.5 GiB, of which there are several
MOST_PIXELS = 2**20  # of the images that a feature network sees at once
DIRECTIONS = 512  # of the sliced distance
# Of 95 % intervals that are approximate; measured by experiments/interval_coverage.py.
FRECHET_COVERS = "approximate: 92 to 99 % in simulations"
KERNEL_COVERS = "approximate: 93 to 98 % in simulations"
INCEPTION_COVERS = "approximate: 85 % in simulations with 2 images a class, 95 % with 10 or more"


class Metrics(NamedTuple):
    """Measurements; the reference's values of measures of a single set; and the reasons why others were skipped."""

    metrics: dict[str, Measurement]
    reference_values: dict[str, float]
    skipped: dict[str, str]


def check(options: EvaluateOptions, generated: int, reference: int) -> list[str]:
    """The names in `options.features`. Raises `ConfigError` for an unknown one, for none at all, or for more neighbours
    than images."""
    names = [name.strip() for name in options.features.split(",") if name.strip()]
    for name in names:
        if name not in FEATURES:
            raise ConfigError(
                f"config.evaluate.features has {name!r}{nearest(name, FEATURES)} There are {', '.join(FEATURES)}."
            )
    if not names and not options.inception:
        raise ConfigError(f"config.evaluate.features names nothing to compare by; there are {', '.join(FEATURES)}.")
    smaller = min(generated, reference)
    if smaller < max(options.neighbours + 1, 4):
        raise ConfigError(
            f"config.evaluate.neighbours is {options.neighbours}, and there are {generated} generated and {reference} "
            f"reference images; use at least {max(options.neighbours + 1, 4)} of each."
        )
    if options.inception and not Path(options.inception).is_file():
        raise ConfigError(f"config.evaluate.inception is {options.inception}, where there is no file.")
    return names


def inception(options: EvaluateOptions) -> list[FeatureNetwork]:
    """Inception's features and logits. Raises `ConfigError` where the file does not hold them."""
    path = Path(options.inception)
    try:
        return [features.inception_features(path), features.inception_logits(path)]
    except CheckpointError as error:
        raise ConfigError(f"config.evaluate.inception: {error}") from error


def extract(network: FeatureNetwork, images: ImageSet) -> np.ndarray:  # -> f32[N, D]
    height, width = images.images.shape[1:3]
    return features.extract(network, batches(images), max(1, min(64, MOST_PIXELS // (height * width))))


def spec(
    metric: str,
    network: FeatureNetwork | None,
    generated: ImageSet,
    reference: ImageSet | None,
    seed: int,
    protocol: Mapping[str, Scalar],
) -> MetricSpec:
    """The spec of a metric of generated images against a reference, both as integers in `levels`."""
    return MetricSpec(
        metric=metric,
        features=network and network.name,
        weights=network and network.weights,
        resize=network and network.resize,
        samples=len(generated.images),
        reference=reference and reference.name,
        split=reference and reference.split,
        reference_samples=reference and len(reference.images),
        seed=seed,
        protocol={"levels": generated.levels, **generated.asked, **protocol},
    )


def compare(
    network: FeatureNetwork,
    name: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    pairs: SelfSimilarity,
    generated: ImageSet,
    reference: ImageSet,
    options: EvaluateOptions,
) -> Metrics:  # [N, D], [M, D]
    """All distances in the features of the network called `name` here: `frechet/pixels` and so on."""
    k, seed = options.neighbours, options.seed
    measured, skipped = {}, {}

    def add(metric: str, value: float, interval: intervals.Interval | None = None, **protocol: Scalar) -> None:
        stated = spec(metric, network, generated, reference, seed, protocol)
        ends = (interval.low, interval.high) if interval else (None, None)
        measured[f"{metric}/{name}"] = Measurement(float(value), stated, *ends)

    smallest, width = min(len(ours), len(theirs)), ours.shape[1]
    if width > WIDEST:
        skipped |= dict.fromkeys(
            (f"frechet/{name}", f"frechet_corrected/{name}"), f"{width} features are more than {WIDEST}"
        )
    elif smallest >= fewest(width, BLOCKS):
        distance, replicates = frechet_replicates(ours, theirs, BLOCKS, seed)
        interval = intervals.jackknife(distance, replicates)
        add("frechet", distance)
        protocol = {"estimate": f"jackknife of {BLOCKS} blocks", "level": 0.95, "covers": FRECHET_COVERS}
        add("frechet_corrected", interval.estimate, interval, **protocol)
    else:
        add("frechet", frechet_distance(moments(ours, "generated"), moments(theirs, "reference")))
        skipped[f"frechet_corrected/{name}"] = (
            f"{width} features need more than {fewest(width, BLOCKS) - 1} images on either side for an interval, and "
            f"one has {smallest}"
        )
    kernel, (scores,) = pair_scores(ours, theirs, [k], pairs, ties=options.ties)
    interval = intervals.kernel_interval(kernel)
    add("kernel", kernel.estimate, interval, kernel="(x.y / D + 1)^3", pairs="all", level=0.95, covers=KERNEL_COVERS)
    for metric in ("precision", "recall", "density", "coverage"):
        add(metric, getattr(scores, metric), k=k, ties=options.ties)
    vendi, reference_values = f"vendi/{name}", {}
    varied = [np.linalg.norm(rows, axis=1).all() for rows in (ours, theirs)]
    if varied[0]:
        add("vendi", vendi_score(ours), similarity="cosine")
    else:
        skipped[vendi] = "the features of an image are all 0, and have no direction"
    if all(varied):
        reference_values[vendi] = vendi_score(theirs)
    sliced = sliced_distance(ours, theirs, DIRECTIONS, seed)
    add("sliced", sliced.estimate, directions=DIRECTIONS)
    return Metrics(measured, reference_values, skipped)


def score(
    network: FeatureNetwork,
    name: str,
    ours: np.ndarray,
    theirs: np.ndarray,
    generated: ImageSet,
    options: EvaluateOptions,
) -> Metrics:  # [N, K], [M, K]
    """The formula of the Inception score over logits of the network called `name` here."""
    generated_score, reference_score = (
        inception_score(scipy.special.softmax(x.astype(np.float64), axis=1)) for x in (ours, theirs)
    )
    interval = intervals.normal(generated_score.information + generated_score.bias, generated_score.standard_error)
    protocol = {"splits": 1, "level": 0.95, "target": "infinitely many images", "covers": INCEPTION_COVERS}
    stated = spec("inception_score", network, generated, None, options.seed, protocol)
    low, high = np.exp([interval.low, interval.high])
    name = f"inception_score/{name}"
    return Metrics(
        {name: Measurement(generated_score.score, stated, float(low), float(high))}, {name: reference_score.score}, {}
    )


def union(parts: Sequence[Metrics]) -> Metrics:
    return Metrics(*({k: v for part in parts for k, v in part[i].items()} for i in range(3)))
