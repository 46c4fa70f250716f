"""Held-out loss and likelihood of a run, over one exact pass, under a protocol that has a digest."""

import math
from collections.abc import Mapping

import numpy as np

from genimg_jax import core, data, directions
from genimg_jax.data import Source
from genimg_jax.engine import tasks
from genimg_jax.engine.program import Program
from genimg_jax.errors import ConfigError
from genimg_jax.evaluation.image_sets import dataset
from genimg_jax.metrics import intervals
from genimg_jax.metrics.specs import LIKELIHOODS, Measurement, MetricSpec, Scalar

KINDS = {"exact": "exact", "lower bound": "a bound: the true value is at most this", "estimate": "an estimate"}
CONDITION_NAMES = {"label": "the class"}  # names for a reader, where they differ from the condition's own
NATS, BITS, BITS_A_CODE = LIKELIHOODS
# By the kind of `log_prob`: what its difference from `log_prob_at_half` is called, and what it means.
CHANGES = {"estimate": "discretisation_error", "lower bound": "bound_gap"}
MEANINGS = {
    "estimate": ("discretisation", "what half of the steps change an image by is added to both ends of the interval"),
    "lower bound": ("gap", "still about bound_gap or more, which is what half of the samples change"),
}


def measure(
    program: Program, weights: core.Weights, source: Source, options: data.Options
) -> tuple[dict[str, Measurement], np.ndarray | None]:
    """The means over all of `source` of the metrics that the family's `evaluate` returns. If it has a likelihood and
    `config.evaluate.likelihood` is set, also the mean negative log-likelihood, in nats an image and in bits a dimension
    or a code, and the log-likelihood of each image, f64[N] in the order of `source`.

    Where the family has `log_prob_at_half`, its difference is measured too. The mean of its absolute value is the error
    of an estimate and widens its interval on both sides; a bound's interval is that of its expectation.

    Raises `ConfigError` where the images are not of the kind that the run was trained on.
    """
    if problem := other_images(program, source):
        raise ConfigError(f"{problem}.")
    measured = {
        name: _measurement(name, values, source, options, {})
        for name, values in tasks.evaluate(program, weights, source).items()
    }
    if not program.config.evaluate.likelihood or program.family.log_prob is None:
        return measured, None
    values = tasks.log_prob(program, weights, source)
    logs = {name: value.astype(np.float64) for name, value in values.items()}
    negative, stated, error = -logs["log_prob"], protocol(program), 0.0
    if "log_prob_at_half" in logs:
        kind, change = program.family.likelihood_kind, logs["log_prob"] - logs["log_prob_at_half"]
        if kind == "estimate":  # errors of images may cancel at half the steps and not at all of them
            change = np.abs(change)
        measured[CHANGES[kind]] = _measurement(CHANGES[kind], change, source, options, stated)
        error = measured[CHANGES[kind]].value if kind == "estimate" else 0.0
    codes = program.family.likelihood_spec
    nats_a_bit = math.prod((codes or program.spec).image_shape) * math.log(2)
    for name, unit in ((NATS, 1.0), (BITS_A_CODE if codes else BITS, nats_a_bit)):
        measured[name] = _measurement(name, negative / unit, source, options, stated, error / unit)
    return measured, logs["log_prob"]


def warnings(measured: Mapping[str, Measurement]) -> dict[str, Scalar]:
    """A sentence for a reader where the discretisation error of an estimate exceeds its statistical error."""
    error, nats = measured.get(CHANGES["estimate"]), measured.get(NATS)
    if error is None or nats.low is None:
        return {}
    sampling = (nats.high - nats.low) / 2 - error.value
    if error.value <= sampling:
        return {}
    errors = f"half of the steps change an image by {error.value:.3g} nats, other images the mean by {sampling:.3g}"
    return {"warning": f"{errors}; raise model.likelihood_steps, or lower model.likelihood_tolerance if it is not 0"}


def other_images(program: Program, source: Source) -> str:
    """Why the model's loss does not apply to these images, or "" where it does."""
    trained, evaluated = program.spec, source.spec
    if (trained.image_shape, trained.levels) == (evaluated.image_shape, evaluated.levels):
        return ""
    return (
        f"the run was trained on images {trained.image_shape} of {trained.levels} levels, and config.data gives "
        f"{evaluated.image_shape} of {evaluated.levels}"
    )


def protocol(program: Program) -> dict[str, Scalar]:
    """The model's part of the likelihood's protocol, or the reason why there is no likelihood."""
    if program.family.log_prob is None:
        return dict(program.family.protocol)
    stated: dict[str, Scalar] = {"log-likelihood": KINDS[program.family.likelihood_kind], **program.family.protocol}
    if program.family.conditions:
        stated["given"] = ", ".join(CONDITION_NAMES.get(name, name) for name in program.family.conditions)
    if program.family.log_prob_at_half:
        stated.update([MEANINGS[program.family.likelihood_kind]])
    if codes := program.family.likelihood_spec:
        height, width, channels = codes.image_shape
        stated["of"] = f"{height}x{width}x{channels} codes of {codes.levels} values, not of pixels"
    return stated


def _measurement(
    name: str,
    values: np.ndarray,
    source: Source,
    options: data.Options,
    stated: dict[str, Scalar],
    error: float = 0.0,
) -> Measurement:
    """The mean of the values [N], with Student's interval, wider by `error` on both sides."""
    metric_spec = spec(name, source, options, stated)
    if len(values) < 2 or not np.isfinite(values).all():  # there is no interval
        return Measurement(float(np.mean(values)), metric_spec)
    interval = intervals.mean(values)
    return Measurement(interval.estimate, metric_spec, interval.low - error, interval.high + error)


def spec(metric: str, source: Source, options: data.Options, stated: Mapping[str, Scalar]) -> MetricSpec:
    """The spec of a metric of the model on held-out images. No images are generated for it."""
    return MetricSpec(
        metric=metric,
        features=None,
        weights=None,
        resize=None,
        samples=0,
        reference=dataset(options, source),
        split=source.split,
        reference_samples=source.size,
        seed=tasks.EVALUATION_SEED,
        protocol={
            "binarize": options.binarize,
            "levels": source.spec.levels,
            "passes": 1,
            "unit": directions.of(metric).unit or None,
            **stated,
        },
    )
