"""Evaluations of whole runs: what the command and sweeps call."""

import json
import os
import pathlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from genimg_jax import core, files
from genimg_jax.data import Part, Source, identity, open_source, splits
from genimg_jax.engine import config_files, features, restore, run, tasks
from genimg_jax.engine.config import TrainOptions
from genimg_jax.engine.program import Program
from genimg_jax.errors import ConfigError, DataError, ResourceError
from genimg_jax.evaluation import classes, image_sets, likelihood, log_probs, marks, suite, zero_shot
from genimg_jax.evaluation.distances import Metrics
from genimg_jax.evaluation.image_sets import ImageSet
from genimg_jax.evaluation.labels import labelled, to_ask
from genimg_jax.evaluation.results import EVALUATED, Report, file_name
from genimg_jax.evaluation.suite import Comparison
from genimg_jax.metrics.specs import Measurement, MetricSpec, Scalar
from genimg_jax.observations import observing
from genimg_jax.options import inference_only, nearest

SUITES = ("likelihood", "full")


class RunContext(NamedTuple):
    """A run's program and what its checkpoints are evaluated on."""

    workdir: pathlib.Path
    program: Program
    part: Part
    source: Source
    averaged: bool
    comparison: Comparison | None  # of the full suite


def evaluate_run(
    workdir: str | os.PathLike,
    values: Mapping[str, Any] | None = None,
    checkpoint: str = "best",
    which: str = "likelihood",
    averaged: bool = True,
    part: Part = Part.EVALUATE,
) -> Report:
    """Evaluates a checkpoint ('best', 'last' or a step) of a run, and returns the report that it wrote.

    `values` is the run's configuration with changes; None for its own. `which` is the suite: 'likelihood', the held-out
    loss and likelihood, written to `evaluation/<checkpoint>.json`; or 'full', those and all comparisons of samples,
    written to `<checkpoint>-full.json`. Choices between evaluations belong on `Part.VALIDATION`, whose files end in
    `-validation`. In the report, `metrics` is {name: {"value", "interval", "digest", "spec"}}:
    `report["metrics"]["frechet/pixels"]["value"]`.
    """
    opened, weights, step = _open(workdir, values, checkpoint, which, averaged, part)
    return _evaluate(opened, weights, step, checkpoint)


def evaluate_checkpoints(
    workdir: str | os.PathLike,
    values: Mapping[str, Any] | None = None,
    which: str = "likelihood",
    averaged: bool = True,
    part: Part = Part.EVALUATE,
) -> dict[int, Report]:
    """The report of every checkpoint that a run has, by step."""
    opened, _, _ = _open(workdir, values, "last", which, averaged, part)
    reports = {}
    for step in restore.steps(opened.workdir, opened.program.config):
        weights, _ = restore.load(opened.workdir, opened.program, str(step), averaged)
        reports[step] = _evaluate(opened, weights, step, str(step))
    return reports


def _open(
    workdir: str | os.PathLike,
    values: Mapping[str, Any] | None,
    checkpoint: str,
    which: str,
    averaged: bool,
    part: Part,
) -> tuple[RunContext, core.Weights, int]:
    workdir = pathlib.Path(workdir)
    if which not in SUITES:
        raise ConfigError(f"there is no suite {which!r}{nearest(which, SUITES)} There are {', '.join(SUITES)}.")
    values = config_files.of_run(workdir) if values is None else values
    program, weights, step, dataset = restore.open_run(workdir, values, checkpoint, averaged)
    read, options = image_sets.bounded(program.config.data), program.config.evaluate
    source = features.open_source(read, part)
    if "label" in program.family.conditions and (renamed := identity.other_classes(dataset, source)):
        raise DataError(f"the model's classes are not those of the images that it is evaluated on: {renamed}.")
    conditions = [name for name in program.family.conditions if name in program.spec.fields]
    if changed := identity.other_fields(conditions, program.spec.fields, source):
        raise DataError(f"the model's conditions are not those of the images that it is evaluated on: {changed}.")
    if "classes" not in dataset and ("label" in program.family.conditions or read.limit):
        changed = identity.change(dataset, open_source(read, Part.TRAIN))
        if changed:
            raise DataError(
                f"{workdir} is of an earlier version, which numbered classes and drew data.limit otherwise, and its "
                f"training data cannot be read as it was ({changed}); train it anew."
            )
    if which != "full":
        return RunContext(workdir, program, part, source, averaged, None), weights, step
    if program.family.sample is None:
        raise ConfigError(
            f"{program.config.family} cannot sample, and the suite 'full' compares samples; take 'likelihood', or "
            "evaluate a family over its codes."
        )
    reference = image_sets.of_source(source, read, source.split)
    trained_on = open_source(read, Part.TRAIN)
    train = image_sets.of_source(trained_on, read, trained_on.split, image_sets.TRAIN)
    classifier = classes.classifier_of(trained_on, source, options, suite.cache())
    comparison = suite.prepare(options, read, reference, train, classifier, options.samples or source.size)
    return RunContext(workdir, program, part, source, averaged, comparison), weights, step


def _place(opened: RunContext, checkpoint: str) -> pathlib.Path:
    which = "full" if opened.comparison else "likelihood"
    name = file_name(checkpoint, which, opened.part == Part.VALIDATION)
    return opened.workdir / "evaluation" / f"{name}.json"


def _evaluate(opened: RunContext, weights: core.Weights, step: int, checkpoint: str) -> Report:
    program, source, comparison = opened.program, opened.source, opened.comparison
    read = program.config.data
    problem = likelihood.other_images(program, source) if comparison else ""
    measured, log_prob = ({}, None) if problem else likelihood.measure(program, weights, source, read)
    recognised = Metrics({}, {}, {}) if problem else zero_shot.measure(program, weights, source, read)
    stated = likelihood.protocol(program) if program.config.evaluate.likelihood and not problem else {}
    stated |= likelihood.warnings(measured)
    report = {
        "checkpoint": checkpoint,
        "step": step,
        "split": source.split,
        "examples": source.size,
        "protocol": {
            "data": identity.content(source),
            "binarize": read.binarize,
            "levels": source.spec.levels,
            "weights": "averaged" if opened.averaged else "as trained",
            "evaluation seed": tasks.EVALUATION_SEED,
            "interval": "95 % over examples, Student's",
            **stated,
            **_observation(program),
            **({"completion": program.family.inpaint_method} if program.family.inpaint_method else {}),
        },
    }
    report["selection"] = _selection(opened, step, checkpoint, report["protocol"]["data"])
    measured |= recognised.metrics
    result = suite.SuiteResult(measured, skipped=recognised.skipped)
    if comparison:
        samples, rate = _sample(opened, weights)
        # Later lines are not about this checkpoint.
        lines = [line for line in run.read_metrics(opened.workdir) if line["step"] <= step]
        result = suite.measure(comparison, samples, lines, program.family.log_odds)
        facts = {"images_a_second": rate, **_facts(opened, step, lines)}
        missing = {"held-out loss and likelihood": problem} if problem else {}
        skipped = missing | recognised.skipped | result.skipped
        result = result._replace(metrics=measured | result.metrics | facts, skipped=skipped)
        report["samples"] = len(samples.images)
        report["protocol"] |= samples.asked
    report["trained_on"] = marks.trained_on(program.family.objective, result.metrics)
    if log_prob is not None:
        result = result._replace(arrays={"log_prob": log_probs.arrays(log_prob, measured, source)})
    return suite.write(_place(opened, checkpoint), report, result)


def _observation(program: Program) -> dict[str, str]:
    """The line of a protocol on the observation that the family is conditioned on, if any."""
    options = program.config.data.observation
    observed = options.kind and "source" in program.family.conditions
    return {"observation": observing.build(options, program.spec.image_shape).about} if observed else {}


def _selection(opened: RunContext, step: int, checkpoint: str, images: str) -> dict[str, Any]:
    """The number of candidates that this checkpoint was chosen among, and the split that the choice was based on.

    The candidates are checkpoints, where 'best' was asked for. `evaluated` counts the different settings of this run
    (step, average, sampling options) that were ever evaluated on these images, whichever split named them.
    """
    config, place = opened.program.config, opened.workdir / EVALUATED
    setting = {
        "step": step,
        "averaged": opened.averaged,
        "model": {name: getattr(config.model, name) for name in inference_only(type(config.model))},
    }
    digest = files.digest(json.dumps(setting, sort_keys=True), 12)
    try:
        with files.exclusive(opened.workdir):
            evaluated = run.read_json(opened.workdir, EVALUATED) if place.is_file() else {}
            evaluated[images] = sorted({*evaluated.get(images, ()), digest})
            files.write_json(place, evaluated)
    except OSError as error:
        raise ResourceError(f"{place} cannot be written: {error.strerror}; evaluate a copy of the run.") from error
    counts = {"evaluated": len(evaluated[images])}
    best = config.train.best if checkpoint == "best" else ""
    if not best:
        return counts
    ranked = [
        line["step"]
        for line in run.read_metrics(opened.workdir)
        if line["split"] == "evaluation" and _saved(line["step"], config.train)
    ]
    split = opened.source.split if opened.part == Part.VALIDATION else splits.title(config.data, Part.VALIDATION)
    return {**counts, "split": split, "metric": best, "candidates": len(ranked)}


def _saved(step: int, train: TrainOptions) -> bool:
    return step % train.checkpoint_every == 0 or step == train.steps


def _sample(opened: RunContext, weights: core.Weights) -> tuple[ImageSet, Measurement]:
    """Samples of the run, with classes in the shares of the held-out images, and the images per second of the compiled
    sampler."""
    program, comparison = opened.program, opened.comparison
    options, reference = program.config.evaluate, comparison.reference
    count, labels = options.samples or opened.source.size, None
    conditions, source, captions, masks = None, None, None, None
    conditioned_on = set(program.family.conditions) - {"label"}
    if conditioned_on:  # all conditions are those of the held-out images, in their order
        source, order = opened.source, np.arange(count) % opened.source.size
        labels, names = None if reference.labels is None else reference.labels[order], reference.classes
        captions = source.captions(order) if source.captions and {"tokens", "features"} & conditioned_on else None
        masks = source.annotations(order)["mask"] if source.annotations and "map" in conditioned_on else None
    elif "label" in program.family.conditions:
        # Runs of earlier versions do not say what their classes are called; others were checked.
        same = len(reference.classes) == program.spec.num_classes
        names = reference.classes if same else tuple(map(str, range(program.spec.num_classes)))
        labels = to_ask(names, reference, count, options.seed)
        conditions = {"label": labels}
    next(tasks.sample_batches(program, weights, count, options.seed, conditions, source))
    seconds = 0.0

    def timed() -> Iterator[np.ndarray]:
        nonlocal seconds
        parts = tasks.sample_batches(program, weights, count, options.seed, conditions, source)
        while True:
            since = time.monotonic()
            part = next(parts, None)
            seconds += time.monotonic() - since
            if part is None:
                return
            yield part

    images = image_sets.of_generated(timed(), reference, comparison.data, str(opened.workdir), options.seed)
    if labels is not None:
        images = labelled(images, labels, names, reference)
    if conditioned_on:
        description = f"{', '.join(program.family.conditions)} of {opened.source.split}, in order"
        images = images._replace(captions=captions, masks=masks, asked={"conditions": description})
    machine = _machine([d.device_kind for d in jax.devices()], run.cores())
    return images, _fact("images_a_second", count / seconds, machine)


def _facts(opened: RunContext, step: int, lines: Sequence[Mapping[str, Any]]) -> dict[str, Measurement]:
    """The cost of training up to a step, from the lines of metrics.jsonl until then. Minutes exclude evaluations and
    checkpoints."""
    manifest = run.read_json(opened.workdir, "manifest.json")
    trained = [line for line in lines if line.get("split") == "train"]
    sizes = np.diff([0, *(line["images"] for line in trained)])
    minutes = sum(n / float(line["images_per_second"]) / 60 for n, line in zip(sizes, trained, strict=True))
    machine = _machine(manifest["devices"], manifest.get("cores"))
    return {
        "images_seen": _fact("images_seen", step * opened.program.config.train.batch_size, {}),
        "training_minutes": _fact("training_minutes", minutes, machine),
    }


def _machine(devices: Sequence[str], cores: int | None) -> dict[str, Scalar]:
    """The hardware that a speed depends on. A CPU counts its cores, however many devices it is split into."""
    kinds = sorted(set(devices))
    return {"devices": kinds[0] if kinds == ["cpu"] else ", ".join(devices), "cores": cores}


def _fact(name: str, value: float, stated: Mapping[str, Scalar]) -> Measurement:
    return Measurement(float(value), MetricSpec(name, None, None, None, 0, None, None, None, None, stated))
