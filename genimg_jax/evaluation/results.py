"""Reports of an evaluation: as JSON, for a person to read, and several of them as one table."""

import math
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genimg_jax.engine import run
from genimg_jax.errors import ConfigError
from genimg_jax.evaluation import marks
from genimg_jax.metrics import significance, specs
from genimg_jax.metrics.specs import LIKELIHOODS, Measurement, MetricSpec
from genimg_jax.options import nearest

Report = dict[str, Any]
EVALUATED = "evaluated.json"  # of a run: the settings that were evaluated, by the hash of the images

# The default columns of a table of runs: those of them that were measured.
COLUMNS = (
    "frechet_corrected/classifier",
    "kernel/classifier",
    "precision/classifier",
    "recall/classifier",
    "density/classifier",
    "coverage/classifier",
    "gan_train",
    "gan_test",
    "negative_log_likelihood",
    "copies/pixels",
    "images_seen",
    "training_minutes",
    "images_a_second",
)


class Column(NamedTuple):
    """Of a table: texts by row."""

    head: str
    digest: str  # of the protocol; "" for a column without one
    cells: dict[str, str]


def plain(value: Any) -> Any:
    """The value as JSON can hold it: numbers that are not finite as words, records as dicts, arrays as lists."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if hasattr(value, "_asdict"):
        return plain(value._asdict())
    if hasattr(value, "tolist"):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def metric(measurement: Measurement) -> dict[str, Any]:
    """A measurement as a report holds it, with its spec and digest."""
    ends = (measurement.low, measurement.high)
    shown = {"value": measurement.value, "interval": None if None in ends else list(ends)}
    unit = measurement.spec.protocol.get("unit")
    shown |= {"unit": unit} if unit else {}
    return plain(shown | {"digest": measurement.spec.digest(), "spec": measurement.spec.fields()})


def measurement(entry: Mapping[str, Any]) -> Measurement:
    """The inverse of `metric`."""
    fields = dict(entry["spec"])
    protocol = {k.removeprefix("protocol."): fields.pop(k) for k in list(fields) if k.startswith("protocol.")}
    low, high = entry["interval"] or (None, None)
    return Measurement(float(entry["value"]), MetricSpec(**fields, protocol=protocol), low, high)


def file_name(checkpoint: str, suite: str, validation: bool = False) -> str:
    """The name of a report in `evaluation/`, without its suffix."""
    return checkpoint + f"-{suite}" * (suite != "likelihood") + "-validation" * validation


def read(workdir: pathlib.Path, name: str) -> Report:
    """The report `evaluation/name.json` of a run. Raises `ConfigError` where there is none, or something else."""
    if not (workdir / "evaluation" / f"{name}.json").is_file():
        raise ConfigError(
            f"{workdir} has no evaluation/{name}.json; make it with genimg evaluate --workdir {workdir} --suite full."
        )
    report = run.read_json(workdir / "evaluation", f"{name}.json")
    if not isinstance(report, Mapping) or "metrics" not in report:
        raise ConfigError(f"{workdir}/evaluation/{name}.json is no report of an evaluation; make it anew.")
    return recounted(report, workdir)


def recounted(report: Report, workdir: pathlib.Path) -> Report:
    """The report of a run with the number of settings that were evaluated on its images until now: those that were
    evaluated after it count too."""
    if "selection" not in report or not (workdir / EVALUATED).is_file():
        return report
    settings = run.read_json(workdir, EVALUATED).get(report["protocol"]["data"], ())
    selection = report["selection"]
    return {**report, "selection": {**selection, "evaluated": max(len(settings), selection["evaluated"])}}


def number(value: float | str) -> str:
    """Four decimals; three significant digits for values below 0.001; no decimals from 10,000 on."""
    if isinstance(value, str):
        return value
    if 0 < abs(value) < 0.001:
        return f"{value:.3g}"
    return f"{value:.0f}" if abs(value) >= 10_000 else f"{value:.4f}"


def text(report: Report) -> str:
    """The report for a terminal."""
    references = report.get("of_reference", {})
    shown = {name: name + marks.trained(report.get("trained_on", ()), name) for name in report["metrics"]}
    name_width = max([28, *map(len, shown.values())])
    lines = [f"{'metric':{name_width}} {'value':>10}  95 % interval"]
    for name, entry in report["metrics"].items():
        interval = "[{}, {}]".format(*map(number, entry["interval"])) if entry["interval"] else ""
        notes = [
            interval,
            entry.get("unit", ""),
            f"(the data: {number(references[name])})" if name in references else "",
        ]
        value = f"{number(entry['value']):>10}"
        lines.append(f"{shown[name]:{name_width}} {value}  {'  '.join(filter(None, notes))}".rstrip())
    if protocol := report.get("protocol"):
        lines += ["", "; ".join(f"{k}: {v}" for k, v in protocol.items())]
    if count := marks.selected_among(report):
        by = "by {metric} on {split}".format(**report["selection"]) if "metric" in report["selection"] else ""
        lines += ["", f"selected among: {', '.join(filter(None, [count, by]))}"]
    lines += marks.legend("\n".join(lines))
    if read := report.get("classes"):
        lines += ["", *_classes(read)]
    for features, audit in report.get("memorisation", {}).items():
        lines += ["", f"memorisation in {features}: {audit['sentence']}"]
    if verdict := report.get("verdict"):
        lines += ["", f"verdict: {verdict['status']}"]
        lines += [f"  {finding['status']:17} {finding['sentence']}" for finding in verdict["findings"]]
    lines += [""] * bool(report.get("left_out"))
    lines += [f"left out: {name}: {reason}" for name, reason in report.get("left_out", {}).items()]
    return "\n".join(lines)


def _classes(read: Mapping[str, Any]) -> list[str]:
    """The predictions of a classifier, one line per class."""
    classifier = read["classifier"]
    columns = [name for name in ("shares", "of the data", "conditional accuracy", "GAN-train") if name in read]
    right = f"{classifier['test_accuracy']:.2%} right on held-out images"
    lines = [
        f"read by classifier {classifier['name']} ({classifier['origin']}, {right})",
        f"{'class':12} {'  '.join(columns)}",
    ]
    for row, name in enumerate(read["names"]):
        cells = [(column, read[column][row]) for column in columns]
        shown = [f"{'' if value is None else f'{value:.1%}':>{len(column)}}" for column, value in cells]
        lines.append(f"{name:12} {'  '.join(shown)}")
    return lines


def table(
    reports: Mapping[str, Report],
    columns: Sequence[str] | None = None,
    log_probs: Mapping[str, np.ndarray | None] | None = None,
) -> str:
    """A Markdown table, one row per report, with the digest of each column's protocol below it. The default columns are
    those of `COLUMNS` that were measured. Negative log-likelihoods of one kind are followed by their paired differences
    from the first row that stored them, over the images of `log_probs`, f64[N] by row from `log_probs.read`.

    Raises `ConfigError` for a column that no report has, and `DataError` where a column would hold figures of two
    protocols: likelihoods that are exact, bounds or estimates are given columns of their own, and everything else must
    have been measured alike.
    """
    measured = {name: None for report in reports.values() for name in report["metrics"]}
    for name in columns or ():
        if name not in measured:
            raise ConfigError(f"{name} has not been measured in {', '.join(reports)}{nearest(name, measured)}")
    columns = columns or [name for name in COLUMNS if name in measured]
    if not columns:
        raise ConfigError(
            f"none of {', '.join(COLUMNS)} has been measured in {', '.join(reports)}; name columns that have been."
        )
    contents = specs.table({row: _cells(report, columns) for row, report in reports.items()})
    metric_of = [head.partition(" (")[0] for head in contents.columns]
    trained_on = {row: report.get("trained_on", ()) for row, report in reports.items()}
    shown, notes = [], []
    for i in sorted(range(len(metric_of)), key=lambda i: columns.index(metric_of[i])):
        measurements = {row: cells[i] for row, cells in contents.rows.items() if cells[i]}
        cells = {
            row: specs.cell(value) + marks.trained(trained_on[row], metric_of[i]) for row, value in measurements.items()
        }
        shown.append(Column(contents.columns[i], contents.digests[i], cells))
        if metric_of[i] == LIKELIHOODS[0] and len(measurements) > 1:
            more, paired_notes = _paired(contents.columns[i], {row: (log_probs or {}).get(row) for row in measurements})
            shown, notes = shown + more, notes + paired_notes
    chosen = {row: marks.selected_among(report) for row, report in reports.items()}
    shown += [Column("selected among", "", chosen)] if any(chosen.values()) else []
    text = specs.markdown(
        specs.Table(
            [column.head for column in shown],
            [column.digest for column in shown],
            {row: [column.cells.get(row) for column in shown] for row in reports},
        )
    )
    rough = {row: report.get("protocol", {}).get("warning") for row, report in reports.items()}
    notes += [f"{row}: {sentence}." for row, sentence in rough.items() if sentence and LIKELIHOODS[0] in metric_of]
    if unknown := [row for row, report in reports.items() if "trained_on" not in report]:
        notes.append(f"Reports that do not say what was trained on, and are not marked: {', '.join(unknown)}.")
    return "\n\n".join([text, *notes, *marks.legend(text)])


def _cells(report: Report, columns: Sequence[str]) -> dict[str, Measurement]:
    cells = {}
    for name in columns:
        if name in report["metrics"]:
            measured = measurement(report["metrics"][name])
            kind = measured.spec.protocol.get("log-likelihood", "")
            cells[f"{name} ({str(kind).partition(':')[0]})" if kind else name] = measured
    return cells


def _paired(head: str, log_probs: Mapping[str, np.ndarray | None]) -> tuple[list[Column], list[str]]:
    """Columns of differences of negative log-likelihoods of one protocol, the column `head`; and notes on them."""
    values = {row: each for row, each in log_probs.items() if each is not None}
    notes = []
    if missing := [row for row in log_probs if row not in values]:
        notes.append(
            f"No paired difference of {', '.join(missing)}: the log-likelihoods of single images are not stored beside "
            "the report; genimg evaluate --workdir RUN --suite full stores them."
        )
    if len(values) < 2:
        return [], notes
    baseline, *others = values
    tests = significance.paired({row: values[baseline] - values[row] for row in others})
    differences = {row: significance.shown(test) for row, test in tests.items()}
    notes.append(
        f"Less {baseline}: the mean difference in nats over the same {len(values[baseline])} images, with Student's "
        "paired interval and test; p is corrected for all rows compared (Holm). Below 0 is better. It is about these "
        "trained models on other images, not about training them again."
        + (" Of bounds, it compares the bounds." if "bound" in head else "")
        + (" Of estimates, it holds the errors of both." if "estimate" in head else "")
    )
    p_values = {row: f"{test.adjusted:.2g}" for row, test in tests.items()}
    return [Column(f"{head} less {baseline} [95 %]", "", differences), Column("p", "", p_values)], notes
