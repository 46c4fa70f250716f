"""Evaluation of images that any other program made."""

import dataclasses
import pathlib

import numpy as np

from genimg_jax import data, files
from genimg_jax.engine.config import EvaluateOptions
from genimg_jax.errors import ConfigError
from genimg_jax.evaluation import classes, distances, image_sets, labels, named_sources, suite
from genimg_jax.evaluation.image_sets import of_source
from genimg_jax.evaluation.named_sources import named, open_named
from genimg_jax.evaluation.results import Report


def evaluate_images(
    generated: str, reference: str, train: str, read: data.Options, options: EvaluateOptions, out: pathlib.Path
) -> Report:
    """The full suite, written to `out`/report.json, over sources as `named_sources.named` takes them.

    `read` says how images are read: for a reference that is a run directory, `named_sources.of_run` says how that did.
    `train` is "" where the training set is not known; a run brings its own. Raises `ConfigError` for whatever cannot be
    read or compared, and `ResourceError` where `out` cannot be written.
    """
    if named_sources.of_run(generated):
        raise ConfigError(
            f"--generated {generated} is a run directory; measure its samples by genimg evaluate with --workdir and "
            "--suite full, or name the images.npz that genimg sample writes."
        )
    files.check_writable(out, "choose another --out")
    read = image_sets.bounded(read)
    theirs = named(reference, read, "--reference")
    if theirs.train_split:
        theirs = theirs._replace(options=read)
    source = open_named(theirs, "--reference")
    held_out = of_source(source, theirs.options, source.split)
    ours = named(generated, read, "--generated")
    # Read without binarisation: `of_other_source` binarises them below, like the samples of a run.
    ours = ours._replace(options=dataclasses.replace(ours.options, binarize="none", limit=options.samples))
    opened = open_named(ours, "--generated")
    labels.check_shape("generated", opened.spec.image_shape, held_out.images.shape[1:])
    samples = image_sets.of_other_source(opened, ours.options, held_out, theirs.options, generated, options.seed)
    named_in_archive = ours.options.source == "npz" and not all(name.isdecimal() for name in opened.classes)
    if named_in_archive and held_out.classes and samples.labels is None:
        raise ConfigError(
            f"--generated {generated}: {samples.unlabelled}; call them as the reference does, or leave `label` out of "
            "the archive."
        )
    everything = np.arange(opened.size)
    samples = samples._replace(
        captions=opened.captions and opened.captions(everything),
        masks=opened.annotations and opened.annotations(everything)["mask"],
    )
    distances.check(options, len(samples.images), len(held_out.images))  # before a classifier is trained
    train_source = train_set = None
    if train or theirs.train_split:
        train_name = named(train, read, "--train", "train") if train else theirs._replace(split=theirs.train_split)
        train_name = train_name._replace(options=image_sets.bounded(train_name.options))
        train_source = open_named(train_name, "--train")
        labels.check_alike(train_source, source)
        train_set = of_source(train_source, train_name.options, train_source.split, image_sets.TRAIN)
    classifier = classes.classifier_of(train_source, source, options, suite.cache())
    comparison = suite.prepare(options, theirs.options, held_out, train_set, classifier, len(samples.images))
    about = {"generated": generated, "reference": reference, "split": source.split, "samples": len(samples.images)}
    return suite.write(out / "report.json", about, suite.measure(comparison, samples))
