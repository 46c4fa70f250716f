"""Held-out loss and likelihood of a run, over one exact pass, under a protocol that has a digest."""

import math

import numpy as np

from genimg_jax import core, data
from genimg_jax.data import Source
from genimg_jax.engine import program as programs
from genimg_jax.engine.program import Program
from genimg_jax.errors import ConfigError
from genimg_jax.evaluation.image_sets import dataset
from genimg_jax.metrics import directions, intervals
from genimg_jax.metrics.specs import LIKELIHOODS, Measurement, MetricSpec, Scalar

KINDS = {"exact": "exact", "lower": "a bound: the true value is at most this", "estimate": "an estimate"}
NATS, BITS, BITS_A_CODE = LIKELIHOODS


def measure(
    program: Program, weights: core.Weights, source: Source, options: data.Options
) -> tuple[dict[str, Measurement], np.ndarray | None]:
    """The means over all of `source` of what the family's `evaluate` gives, and of the negative log-likelihood where
    it has one and `config.evaluate.likelihood` asks for it: in nats an image, and in bits a dimension or a code. Then
    also the log-likelihood of each image, f64[N] in the order of `source`.

    Raises `ConfigError` where the images are not of the kind that the run was trained on.
    """
    if problem := other_images(program, source):
        raise ConfigError(f"{problem}.")
    found = {
        name: _measurement(name, values, source, options, {})
        for name, values in programs.evaluate(program, weights, source).items()
    }
    if not program.config.evaluate.likelihood or program.family.log_prob is None:
        return found, None
    negative = -programs.evaluate(program, weights, source, "log_prob")["log_prob"].astype(np.float64)
    codes = program.family.likelihood_of
    bits = negative / (math.prod((codes or program.spec).image_shape) * math.log(2))
    for name, values in ((NATS, negative), (BITS_A_CODE if codes else BITS, bits)):
        found[name] = _measurement(name, values, source, options, protocol(program))
    return found, -negative


def other_images(program: Program, source: Source) -> str:
    """Why the model's loss says nothing about these images, or "" where it does."""
    trained, given = program.spec, source.spec
    if (trained.image_shape, trained.levels) == (given.image_shape, given.levels):
        return ""
    return (
        f"the run was trained on images {trained.image_shape} of {trained.levels} levels, and config.data gives "
        f"{given.image_shape} of {given.levels}"
    )


def protocol(program: Program) -> dict[str, Scalar]:
    """What a reader of the likelihood must know of the model's side of it, or why there is none."""
    if program.family.log_prob is None:
        return dict(program.family.protocol)
    stated: dict[str, Scalar] = {"log-likelihood": KINDS[program.family.bound], **program.family.protocol}
    if codes := program.family.likelihood_of:
        height, width, channels = codes.image_shape
        stated["of"] = f"{height}x{width}x{channels} codes of {codes.levels} values, not of pixels"
    return stated


def _measurement(
    name: str, values: np.ndarray, source: Source, options: data.Options, stated: dict[str, Scalar]
) -> Measurement:  # [N]
    spec = MetricSpec(
        metric=name,
        features=None,
        weights=None,
        resize=None,
        samples=0,
        reference=dataset(options, source),
        split=source.split,
        reference_samples=source.size,
        seed=programs.EVALUATION_SEED,
        protocol={
            "binarize": options.binarize,
            "levels": source.spec.levels,
            "passes": 1,
            "unit": directions.of(name).unit or None,
            **stated,
        },
    )
    if len(values) < 2 or not np.isfinite(values).all():  # JSON and a reader are told so, and no interval is made up
        return Measurement(float(np.mean(values)), spec)
    interval = intervals.mean(values)
    return Measurement(interval.estimate, spec, interval.low, interval.high)
