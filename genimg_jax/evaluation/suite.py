"""The full suite: all measurements of generated images against a reference, whatever program generated them."""

import io
import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genimg_jax import data, files, progress
from genimg_jax.engine import images, runtime
from genimg_jax.engine.config import EvaluateOptions
from genimg_jax.errors import ConfigError, ResourceError
from genimg_jax.evaluation import attributes, audit, classes, distances, results
from genimg_jax.evaluation.classifiers import Classifier
from genimg_jax.evaluation.distances import Metrics
from genimg_jax.evaluation.image_sets import ImageSet
from genimg_jax.evaluation.results import Report
from genimg_jax.metrics import collapse, features, memorisation
from genimg_jax.metrics.collapse import Verdict
from genimg_jax.metrics.features import FeatureNetwork
from genimg_jax.metrics.memorisation import Audit, NullDistances
from genimg_jax.metrics.pair_scores import SelfSimilarity, self_similarity
from genimg_jax.metrics.specs import Measurement

MOST_BYTES = 3 * 2**29  # of the pixels of all sets as floats: more are not compared by them
PIXELS, RANDOM, CLASSIFIER, INCEPTION = "pixels", "random_conv", "classifier", "inception"


class Comparison(NamedTuple):
    """What generated images are compared with, prepared once for any number of generators of the same images."""

    options: EvaluateOptions
    data: data.Options
    """The options that the reference was read with; generated images are converted by the same."""
    reference: ImageSet
    train: ImageSet | None
    classifier: Classifier | None
    networks: dict[str, FeatureNetwork]
    """By short name, those of `measured` and `audited`."""
    measured: tuple[str, ...]
    """The features that distances are measured in."""
    audited: tuple[str, ...]
    """Features used for the duplicate check: pixels, unless there are too many, and the first other network: the
    classifier's, Inception's, or a random one's."""
    logits: dict[str, FeatureNetwork]
    """The networks whose logits the Inception score is computed from."""
    skipped: dict[str, str]
    reference_features: Mapping[str, np.ndarray] = {}
    """f32[M, D] by short name, of all `networks`."""
    reference_pairs: Mapping[str, SelfSimilarity] = {}
    """Of `measured`"""
    reference_logits: Mapping[str, np.ndarray] = {}
    independent_features: Mapping[str, np.ndarray] = {}
    """f32[collapse.JUDGED, D] of `audit.independent_pixels`, of `audited`"""
    train_features: Mapping[str, np.ndarray] = {}
    """Of `audited`, where the training images are known"""
    null_distances: Mapping[str, NullDistances] = {}
    """Of the same"""


class SuiteResult(NamedTuple):
    """All results for one set of images, or one run."""

    metrics: Mapping[str, Measurement]
    reference_values: Mapping[str, float] = {}
    """The values of the reference's images, for metrics of a single set."""
    skipped: Mapping[str, str] = {}
    """The reasons why metrics were not measured, by name"""
    verdict: Verdict | None = None
    memorisation: Mapping[str, Any] = {}
    """`audit.record`s by features"""
    classes: Mapping[str, Any] = {}
    """`classes.record`"""
    pictures: Mapping[str, np.ndarray] = {}
    """u8[rows, columns, C] by name"""
    arrays: Mapping[str, Mapping[str, np.ndarray]] = {}
    """The arrays of each archive, by its name"""


def cache() -> pathlib.Path:
    """Where classifiers that were trained on the fly are kept."""
    return runtime.user_cache()


def prepare(
    options: EvaluateOptions,
    read: data.Options,
    reference: ImageSet,
    train: ImageSet | None,
    classifier: Classifier | None,
    count: int,
) -> Comparison:
    """For `count` generated images. `train` and `classifier` are None where there are no training images, or no labels:
    measures that need them are skipped, by name. Raises `ConfigError` if no others were requested."""
    chosen = distances.check(options, count, len(reference.images))
    skipped = {} if train else {"memorisation": "the training images are not known"}
    networks, logits = {PIXELS: features.pixels}, {}
    if classifier:
        networks[CLASSIFIER], logits[CLASSIFIER] = classifier.features, classifier.logits
    else:
        skipped["what a classifier reads"] = reason = classes.why_none(train, reference, options)
    if options.inception:
        networks[INCEPTION], logits[INCEPTION] = distances.inception(options)
        chosen = [*chosen, INCEPTION]
    shape = reference.images.shape[1:]
    networks[RANDOM] = features.random_conv(shape)
    audited = tuple(networks)[:2]
    needed = 4 * math.prod(shape) * (count + len(reference.images) + (len(train.images) if train else 0))
    if needed > MOST_BYTES:
        skipped[PIXELS] = reason = f"the pixels of all images take {needed / 2**30:,.1f} GiB as numbers"
        del networks[PIXELS]
        audited = audited[1:]
    networks = {name: network for name, network in networks.items() if name in chosen or name in audited}
    measured = tuple(name for name in networks if name in chosen)
    if not measured:
        raise ConfigError(f"config.evaluate.features is {options.features}, and there is none: {reason}; add another.")
    return _extract(
        Comparison(options, read, reference, train, classifier, networks, measured, audited, logits, skipped)
    )


def _extract(comparison: Comparison) -> Comparison:
    """The comparison with the features of its own images."""
    options, reference, networks = comparison.options, comparison.reference, comparison.networks
    reference_features, reference_logits, trained, null_distances, pairs = {}, {}, {}, {}, {}
    with progress.bar("reference", total=len(networks) + len(comparison.logits), unit="part") as bar:
        independent = audit.independent_pixels(reference, collapse.JUDGED, options.seed)
        independent = {name: distances.extract(networks[name], independent) for name in comparison.audited}
        for name, network in networks.items():
            reference_features[name] = distances.extract(network, reference)
            if name in comparison.measured:
                pairs[name] = self_similarity(reference_features[name], options.neighbours)
            if comparison.train is not None and name in comparison.audited:
                trained[name] = distances.extract(network, comparison.train)
                null_distances[name] = memorisation.null_distances(
                    trained[name], reference_features[name], options.seed
                )
            bar.update()
        for name, network in comparison.logits.items():
            reference_logits[name] = distances.extract(network, reference)
            bar.update()
    return comparison._replace(
        reference_features=reference_features,
        reference_pairs=pairs,
        reference_logits=reference_logits,
        independent_features=independent,
        train_features=trained,
        null_distances=null_distances,
    )


def measure(
    comparison: Comparison,
    generated: ImageSet,
    history: Sequence[Mapping[str, Any]] = (),
    log_odds: Sequence[tuple[str, str]] = (),
) -> SuiteResult:
    """`history` holds the lines of metrics.jsonl of the run that generated the images, `log_odds` is its family's."""
    options, reference, classifier = comparison.options, comparison.reference, comparison.classifier
    distances.check(options, len(generated.images), len(reference.images))
    parts, memory, pictures, both, read, predicted = [], {}, {}, {}, {}, None
    total = len(comparison.networks) + len(comparison.logits) + bool(classifier)
    with progress.bar("suite", total=total, unit="part") as bar:
        for name, network in comparison.networks.items():
            bar.set_postfix_str(name)
            ours, theirs = distances.extract(network, generated), comparison.reference_features[name]
            if name in comparison.measured:
                pairs = comparison.reference_pairs[name]
                parts.append(distances.compare(network, name, ours, theirs, pairs, generated, reference, options))
            if name in comparison.audited:
                both[name] = ours, theirs, comparison.independent_features[name]
            if name in comparison.train_features:
                trained, null = comparison.train_features[name], comparison.null_distances[name]
                result = memorisation.audit(ours, trained, theirs, options.seed, null=null)
                parts.append(_audited(result, network, name, comparison, generated))
                memory[name] = audit.record(result)
                pictures[f"closest-{name}"] = audit.picture(result, generated, comparison.train)
            bar.update()
        for name, network in comparison.logits.items():
            bar.set_postfix_str(f"score over {name}")
            ours, theirs = distances.extract(network, generated), comparison.reference_logits[name]
            parts.append(distances.score(network, name, ours, theirs, generated, options))
            if name == CLASSIFIER:
                predicted = ours.argmax(axis=1), theirs.argmax(axis=1), classifier.classes
            bar.update()
        if classifier:
            bar.set_postfix_str("classes")
            part, read = classes.measure(
                classifier, predicted, generated, reference, comparison.train, options, cache()
            )
            parts.append(part)
            bar.update()
    if comparison.data.source == "shapes":
        parts.append(attributes.measure(generated, reference, options.seed))
    all_parts = distances.union(parts)
    return SuiteResult(
        metrics=all_parts.metrics,
        reference_values=all_parts.reference_values,
        skipped=comparison.skipped | all_parts.skipped,
        verdict=audit.verdict(generated, both, predicted, history, log_odds, options.seed),
        memorisation=memory,
        classes=read,
        pictures=pictures,
    )


def _audited(result: Audit, network: FeatureNetwork, name: str, comparison: Comparison, generated: ImageSet) -> Metrics:
    def measured(metric: str, value: float) -> Measurement:
        stated = audit.protocol(comparison.train)
        seed = comparison.options.seed
        return Measurement(value, distances.spec(metric, network, generated, comparison.reference, seed, stated))

    metrics = {"copies": result.copies.rate, "data_copying": result.data_copying}
    named = {f"{metric}/{name}": measured(metric, value) for metric, value in metrics.items()}
    return Metrics(named, {f"copies/{name}": result.copies.null_rate}, {})


def write(path: pathlib.Path, about: Mapping[str, Any], result: SuiteResult) -> Report:
    """Writes and returns the report: `about`, and the result. Pictures and archives are written beside it, as
    REPORT-NAME.png and REPORT-NAME.npz. Raises `ResourceError` where they cannot be written."""
    verdict = result.verdict
    report = {
        **about,
        "metrics": {name: results.metric(measurement) for name, measurement in result.metrics.items()},
        "of_reference": result.reference_values,
        "verdict": verdict and {"status": verdict.status, "findings": [f._asdict() for f in verdict.findings]},
        "memorisation": result.memorisation,
        "classes": result.classes,
        "left_out": result.skipped,
        "files": [
            path.name,
            *(f"{path.stem}-{name}.png" for name in result.pictures),
            *(f"{path.stem}-{name}.npz" for name in result.arrays),
        ],
    }
    report = results.plain({key: value for key, value in report.items() if value or key in ("metrics", "trained_on")})
    try:
        for name, picture in result.pictures.items():
            images.save_png(path.with_name(f"{path.stem}-{name}.png"), picture)
        for name, arrays in result.arrays.items():
            content = io.BytesIO()
            np.savez_compressed(content, **arrays)
            files.write_atomic(path.with_name(f"{path.stem}-{name}.npz"), content.getvalue())
        files.write_json(path, report)
    except OSError as error:
        raise ResourceError(f"the report {path} cannot be written: {error.strerror or error}.") from error
    return report
