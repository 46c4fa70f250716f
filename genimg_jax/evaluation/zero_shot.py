"""How well a model recognises the condition of an image: Bayes' rule chooses among candidates by log p(image | c).

The candidates for a class are all classes (zero-shot classification, as Li et al. 2023 have it for diffusion models);
for a caption or a vector of features they are its own and others of held-out images. All are equally likely a priori.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from genimg_jax import core, data
from genimg_jax.data import Source, loading
from genimg_jax.engine import candidates
from genimg_jax.engine.program import Program
from genimg_jax.evaluation import attributes, likelihood
from genimg_jax.evaluation.distances import Metrics
from genimg_jax.metrics.classifier_tests import proportion
from genimg_jax.metrics.specs import Measurement

IMAGES, OTHERS = 0x1A6E5, 0x07AE25  # the streams that images and the other candidates are drawn from


def measure(program: Program, weights: core.Weights, source: Source, read: data.Options) -> Metrics:
    """How often the likeliest candidate is the image's own: of classes `zero_shot_accuracy`, of any other condition
    `retrieval@1/NAME`; of scenes also how often each attribute of the likeliest caption is right, as
    `attribute_accuracy/NAME`. With Wilson's intervals.

    It scores `evaluate.retrieval_images` random images of the source. Where the likelihood is an estimate, an ODE for
    each candidate, it scores fewer, which take no more likelihoods than the source has images. Nothing is measured
    where that leaves none, where the family has no likelihood under a condition, or where likelihoods are not asked
    for.
    """
    family, options = program.family, program.config.evaluate
    images, most = options.retrieval_images, options.retrieval_candidates
    if family.likelihood_kind == "estimate" and family.conditions:
        each = [program.spec.num_classes if name == "label" else most for name in family.conditions]
        images = min(images, source.size // max(each))
    if not (images and options.likelihood and family.log_prob and family.conditions):
        return Metrics({}, {}, {})
    index = np.sort(np.random.default_rng(IMAGES).permutation(source.size)[:images])
    examples = {**loading.rows(source, index), "index": index.astype(np.int32)}
    measured, skipped = {}, {}

    def add(metric: str, right: np.ndarray, count: int) -> None:  # bool[n]
        stated = {**likelihood.protocol(program), "candidates": count, "prior": "uniform", "level": 0.95}
        spec = dataclasses.replace(likelihood.spec(metric, source, read, stated), reference_samples=len(index))
        interval = proportion(right.sum(), len(right))
        measured[metric] = Measurement(interval.estimate, spec, interval.low, interval.high)

    for name in family.conditions:
        metric = "zero_shot_accuracy" if name == "label" else f"retrieval@1/{name}"
        if reason := why_not(program, name):
            skipped[metric] = reason
            continue
        values, true_index, among = candidates_of(program.spec.conditions[name], examples[name], most)
        count = among.shape[1]
        if count < 2:
            skipped[metric] = "all images have the same"
            continue
        logs = candidates.scores(program, weights, examples, name, values[among])
        best = np.where(np.isnan(logs), -np.inf, logs).argmax(axis=1)
        chosen = among[np.arange(len(index)), best]
        add(metric, chosen == true_index, count)
        if read.source == "shapes" and name == "tokens":
            captions = source.captions(index)
            of_value = dict(zip(true_index.tolist(), captions, strict=True))
            right = caption_attributes([of_value[value] for value in chosen.tolist()], captions)
            for attribute in (name for name, each in right.items() if len(each)):
                add(f"attribute_accuracy/{attribute}", right[attribute], count)
    return Metrics(measured, {}, skipped)


def why_not(program: Program, name: str) -> str:
    """Why images cannot be scored under candidates for a condition, or ""."""
    if len(program.spec.conditions[name].shape) > 1:
        return "candidates are classes, captions and vectors, not maps or images"
    if program.tokenizer and name in program.tokenizer.family.conditions:
        return "the tokenizer is conditioned on it too, so that an image has other codes under each candidate"
    return ""


def candidates_of(field: core.Field, values: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Distinct values; the index of each image's true value; and the indices of its candidates: all classes, or the
    true value and up to `most` - 1 others of these images.

    The true value is the first candidate of the first image, the second of the second, and so on: if all are equally
    likely, the first is chosen, and is right as often as by chance.
    """  # [N, ...] -> [V, ...], i64[N], i64[N, K]
    if not field.shape:
        return np.arange(field.size), values, np.broadcast_to(np.arange(field.size), (len(values), field.size))
    distinct, true_index = np.unique(values, axis=0, return_inverse=True)
    true_index, count = true_index.reshape(-1), min(most, len(distinct))
    rows = []
    for i, which in enumerate(true_index):
        others = np.random.default_rng([OTHERS, i]).choice(len(distinct) - 1, count - 1, replace=False)
        rows.append(np.insert(others + (others >= which), i % count, which))
    return distinct, true_index, np.array(rows)


def caption_attributes(captions: Sequence[str], true: Sequence[str]) -> dict[str, np.ndarray]:
    """Where captions agree with the true ones, by attribute of the scene: those of `attributes.checks`."""
    # -> {name: bool[n]}
    chosen = attributes.parse(captions)
    chosen["radius"] = np.zeros(chosen["kind"].shape)  # of sizes, which are not compared: all captions name the same
    right = attributes.checks(chosen, attributes.parse(true))
    return {name: each for name, each in right.items() if name not in ("sizes", "caption")}
