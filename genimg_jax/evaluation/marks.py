"""Marks in tables beside a value: the model was trained on the metric, or was selected among several candidates."""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

from genimg_jax.data import Part
from genimg_jax.metrics.specs import LIKELIHOODS, Measurement

TRAINED, SELECTED = "†", "‡"
MARKS = {
    TRAINED: "trained on this measure: its value says less of other qualities than that of a model that was not.",
    SELECTED: "the reported split may have had a part in choosing it: new images may show it worse.",
}


def trained_on(objective: Sequence[str], metrics: Mapping[str, Measurement]) -> list[str]:
    """The metrics that a `core.Family.objective` optimises: by their name, as a likelihood, or in its features."""
    optimised = {*objective, *(LIKELIHOODS if "log_prob" in objective else ())}
    return [
        name for name, measurement in metrics.items() if name in optimised or measurement.spec.features in optimised
    ]


def trained(metrics: Collection[str], name: str) -> str:
    """The mark behind the value of metric `name`, if it is one of `metrics`, those that training optimised."""
    return f" {TRAINED}" if name in metrics else ""


def selected_among(report: Mapping[str, Any]) -> str:
    """The number of candidates that the reported one was chosen from, marked `SELECTED` if the reported split had a
    part in it; "" where the report does not say."""
    selection, split = report.get("selection"), report.get("split", "")
    if not selection:
        return ""
    evaluated = selection.get("evaluated", 1)  # settings of this run that were evaluated on the reported images
    count = f"{selection.get('candidates', 1)}{f' and {evaluated} on {split}' if evaluated > 1 else ''}"
    # The name of a split that shares images with the validation split says so.
    part = selection.get("split") == split or ("split" in selection and Part.VALIDATION in split)
    return f"{count} {SELECTED}" if evaluated > 1 or part else count


def legend(text: str) -> list[str]:
    """What the marks in a text mean."""
    return [f"{sign} {meaning}" for sign, meaning in MARKS.items() if sign in text]
