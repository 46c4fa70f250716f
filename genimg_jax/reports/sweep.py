"""The report of a sweep: `report.md`, a table for use in other documents, and `report.html`, a self-contained page."""

from collections.abc import Sequence

from genimg_jax import directions
from genimg_jax.evaluation import marks
from genimg_jax.files import write_atomic
from genimg_jax.metrics import significance
from genimg_jax.metrics.specs import LIKELIHOODS
from genimg_jax.reports.sweep_page import page
from genimg_jax.reports.sweep_plan import duration
from genimg_jax.sweeps.findings import Configuration, Findings, find
from genimg_jax.sweeps.plan import Sweep
from genimg_jax.sweeps.statistics import LEVEL, POWER, Comparison

NAMED = 5  # at most so many configurations in a sentence
TOO_FEW_SEEDS = "fewer than 3 seeds: too few to compare"


def write(sweep: Sweep, mixed: bool = False) -> str:
    """Writes both files, and returns the table and their paths. Raises `DataError` if trials cannot be compared."""
    findings = find(sweep, mixed)
    table = markdown(sweep, findings)
    write_atomic(sweep.workdir / "report.md", f"{table}\n")
    html = page(
        sweep,
        findings,
        verdict(sweep, findings),
        header(sweep, findings),
        rows(sweep, findings),
        notes(sweep, findings),
    )
    write_atomic(sweep.workdir / "report.html", html)
    return f"{table}\n\nwritten: {sweep.workdir / 'report.md'}, {sweep.workdir / 'report.html'}"


def markdown(sweep: Sweep, findings: Findings) -> str:
    head = header(sweep, findings)
    lines = [head, ["---"] * len(head), *rows(sweep, findings)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return "\n\n".join([f"**{sweep.question}**", verdict(sweep, findings), table, *notes(sweep, findings)])


def verdict(sweep: Sweep, findings: Findings) -> str:
    """One sentence: which configurations are better or worse than the baseline, and which show no difference."""
    measure = sweep.measure
    compared = [s for s in findings.configurations if s.comparison]
    if not compared:
        return f"Nothing can be compared with the baseline {sweep.baseline} yet."
    sure = [s for s in compared if s.comparison.adjusted < LEVEL and not s.comparison.too_few_seeds]
    sure.sort(key=lambda s: -abs(s.comparison.difference))
    better = [s.name for s in sure if (s.comparison.difference < 0) == (measure.better == "lower")]
    worse = [s.name for s in sure if s.name not in better]
    unsure = [s.name for s in compared if s not in sure]
    groups = {"better": better, "worse": worse, "no difference shown": unsure}
    parts = "; ".join(f"{label}: {_listed(names)}" for label, names in groups.items() if names)
    return f"By {measure.primary}, of which {measure.better} is better, against {sweep.baseline}: {parts}."


def _listed(names: Sequence[str]) -> str:
    rest = len(names) - NAMED
    return " | ".join(names[:NAMED]) + (f" and {rest} more" if rest > 0 else "")


def header(sweep: Sweep, findings: Findings) -> list[str]:
    return [
        "configuration",
        "seeds",
        f"{directions.arrow(sweep.measure.primary)} [95 %]",
        "difference [95 %]",
        "p",
        "Holm",
        "effect",
        "detectable",
        *[f"{LIKELIHOODS[0]}: difference over images [95 %]", "p over images"] * _over_images(findings),
        *map(directions.arrow, sweep.measure.also),
        *["selected among"] * _selected(findings),
    ]


def _over_images(findings: Findings) -> bool:
    return any(configuration.over_images for configuration in findings.configurations)


def _selected(findings: Findings) -> bool:
    return any(configuration.selected for configuration in findings.configurations)


def rows(sweep: Sweep, findings: Findings) -> list[list[str]]:
    return [_row(sweep, findings, configuration) for configuration in findings.configurations]


def _row(sweep: Sweep, findings: Findings, configuration: Configuration) -> list[str]:
    summary, comparison = configuration.summary, configuration.comparison
    count = len(configuration.trials)
    seeds = f"{count - configuration.unfinished} of {count}" if configuration.unfinished else str(count)
    trained = {name: marks.trained(configuration.trained_on, name) for name in configuration.values}
    mean = _with_interval(summary.mean, summary.interval) + trained[sweep.measure.primary] if summary else ""
    also = [_mean(configuration.values[name].values(), trained[name]) for name in sweep.measure.also]
    name = configuration.name + (" (baseline)" if configuration.name == sweep.baseline else "")
    few = " *" if summary and summary.too_few_seeds else ""
    paired = configuration.over_images
    images = [significance.shown(paired), _number(paired.p_value, ".2g")] if paired else ["", ""]
    selected = [configuration.selected] * _selected(findings)
    return [name, f"{seeds}{few}", mean, *_compared(comparison), *images * _over_images(findings), *also, *selected]


def _compared(comparison: Comparison | None) -> list[str]:
    if comparison is None:
        return [""] * 5
    return [
        _with_interval(comparison.difference, comparison.interval, "+"),
        _number(comparison.p_value, ".2g"),
        _number(comparison.adjusted, ".2g"),
        _number(comparison.effect, "+.2f"),
        _number(comparison.detectable, ".2g"),
    ]


def notes(sweep: Sweep, findings: Findings) -> list[str]:
    """Notes that readers of the table need."""
    measure = sweep.measure
    digests = ", ".join(f"{name} `{digest}`" for name, digest in findings.protocols.items() if digest)
    parts = [
        f"Means over seeds with Student's intervals. Differences from {sweep.baseline} in pairs of equal seed, with "
        "the paired t test; Holm: p corrected for all configurations compared. Effect: mean difference in standard "
        "deviations of a pair's, corrected for few pairs (Hedges). Detectable: the true difference that so many pairs "
        f"would show at p < {LEVEL:g} with a chance of {POWER:.0%}.",
        f"Checkpoint {measure.checkpoint}, suite {measure.suite}. " + (f"Protocols: {digests}." if digests else ""),
    ]
    if pairs := {s.over_images.pairs for s in findings.configurations if s.over_images}:
        parts.append(
            f"Over images: the difference in nats an image, over the seeds that both have, paired by the same "
            f"{pairs.pop()} images with Student's interval and test, p not corrected. It tells what other images would "
            "change of these trained models, and nothing of other seeds: no configuration is called better by it."
        )
    elif measure.primary in LIKELIHOODS and any(s.comparison for s in findings.configurations):
        parts.append(
            "Without differences over images: the trials' evaluations stored no log-likelihoods of images. Remove "
            "evaluation/ from the trials to have them evaluated anew."
        )
    parts += marks.legend(" ".join(cell for row in rows(sweep, findings) for cell in row))
    if any(s.summary and s.summary.too_few_seeds for s in findings.configurations):
        parts.append(f"\\* {TOO_FEW_SEEDS}, whatever p says.")
    if findings.mixture:
        parts.append(f"Compared all the same, as asked: trials that do not share {', '.join(findings.mixture)}.")
    missing = [s for s in findings.configurations if s.unfinished]
    if missing:
        parts.append(
            f"{sum(s.unfinished for s in missing)} trials have no value: seeds that failed or are yet to run are left "
            "out, and what is left may be the lucky ones."
        )
    spent = sum(s.seconds for s in findings.configurations)
    parts.append(f"Training took {duration(spent)} in all, as the sum over trials.")
    return [part.strip() for part in parts]


def _with_interval(value: float, interval, sign: str = "") -> str:
    if interval is None:
        return f"{value:{sign}.4g}"
    digits = 4
    return f"{value:{sign}.{digits}g} [{interval.low:{sign}.{digits}g}, {interval.high:{sign}.{digits}g}]"


def _mean(values: Sequence[float], mark: str) -> str:
    values = list(values)
    return f"{sum(values) / len(values):.4g}{mark}" if values else ""


def _number(value: float, form: str) -> str:
    return "" if value != value else f"{value:{form}}"
