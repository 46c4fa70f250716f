"""The results of a sweep, for its report: scores by configuration and seed, comparisons, differences between trials.

Values are compared only if they have the same protocol, the same data and the same version of the code.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from genimg_jax.engine import run
from genimg_jax.engine.config import flatten
from genimg_jax.engine.reproduce import VOLATILE_KEYS
from genimg_jax.errors import DataError
from genimg_jax.evaluation import log_probs, marks
from genimg_jax.metrics import significance
from genimg_jax.metrics.significance import Paired
from genimg_jax.metrics.specs import LIKELIHOODS
from genimg_jax.sweeps import plan, scores, statistics, trials
from genimg_jax.sweeps.grid import determines
from genimg_jax.sweeps.plan import Sweep
from genimg_jax.sweeps.statistics import Comparison, Summary
from genimg_jax.sweeps.trials import Trial

DATA, CODE = "dataset.fingerprint", ("git.commit", "git.diff_hash")


class Configuration(NamedTuple):
    """Trials that differ only in what repeats them, such as the seed."""

    name: str
    options: Mapping[str, Any]  # the values of all swept keys, by flat key
    trials: tuple[Trial, ...]
    values: Mapping[str, Mapping[int, float]]  # metric -> seed -> finite value
    unfinished: int  # trials without a value of the primary metric
    summary: Summary | None  # of the primary metric
    comparison: Comparison | None  # with the baseline; None for the baseline, and without shared seeds
    over_images: Paired | None  # see `_over_images`
    trained_on: frozenset[str]  # metrics that training of one of its trials optimised
    selected: str  # among how many checkpoints each trial's was selected; "" if unknown
    seconds: float  # of training, over all its trials


class Findings(NamedTuple):
    configurations: tuple[Configuration, ...]
    swept: tuple[str, ...]  # flat keys whose values differ between configurations
    protocols: Mapping[str, str]  # metric -> digest
    differences: Mapping[str, Mapping[str, Sequence[str]]]  # manifest key -> value -> names of trials
    manifests: Mapping[str, Mapping[str, Any]]  # by digest of the trial, flat
    mixture: tuple[str, ...]  # what trials do not share, if `mixed` allows it


def find(sweep: Sweep, mixed: bool = False) -> Findings:
    """Reads the findings from files. Unless `mixed`, raises `DataError` for trials with different data, code, or
    protocols of a metric."""
    measure = sweep.measure
    done = [trial for trial in sweep.trials if trials.trained(trial)]
    reports = {trial.digest: scores.report(trial, measure) for trial in done}
    metrics = {digest: report.get("metrics", {}) for digest, report in reports.items()}
    scores.check_measured(measure, dict.fromkeys(name for measured in metrics.values() for name in measured))
    manifests = {trial.digest: _manifest(trial) for trial in done}
    differing = _differences(done, manifests)
    protocols = _protocols(done, metrics, (measure.primary, *measure.also), mixed)
    mixture = [key for key in (DATA, *CODE) if key in differing]
    mixture += [f"the protocol of {name}" for name, digests in protocols.items() if "," in digests]
    if not mixed:
        _refuse_mixture(differing)
    swept = _swept(sweep)
    outcomes = plan.outcomes(sweep.workdir)
    seconds = {digest: sum(line["seconds"] for line in lines) for digest, lines in outcomes.items()}
    unpaired = [
        _configuration(name, group, swept, sweep, reports, sum(seconds.get(trial.digest, 0.0) for trial in group))
        for name, group in sweep.by_configuration().items()
    ]
    compared = statistics.compare({s.name: s.values[measure.primary] for s in unpaired}, sweep.baseline)
    paired = {} if "," in protocols[measure.primary] else _over_images(sweep, metrics)
    configurations = tuple(
        s._replace(comparison=compared.get(s.name), over_images=paired.get(s.name)) for s in unpaired
    )
    return Findings(configurations, swept, protocols, differing, manifests, tuple(mixture))


def _configuration(
    name: str,
    group: Sequence[Trial],
    swept: Sequence[str],
    sweep: Sweep,
    reports: Mapping[str, Mapping[str, Any]],
    seconds: float,
) -> Configuration:
    evaluated = [reports[trial.digest] for trial in group if reports.get(trial.digest)]
    metrics = {trial.digest: reports.get(trial.digest, {}).get("metrics", {}) for trial in group}
    values: dict[str, dict[int, float]] = {}
    for metric in (sweep.measure.primary, *sweep.measure.also):
        by_seed = {sweep.seeds[c.digest]: scores.value(metrics[c.digest], metric) for c in group}
        values[metric] = {seed: value for seed, value in by_seed.items() if math.isfinite(value)}
    primary = values[sweep.measure.primary]
    flat = flatten(group[0].values)
    return Configuration(
        name,
        {key: flat.get(key) for key in swept},
        tuple(group),
        values,
        len(group) - len(primary),
        statistics.summarize(list(primary.values())) if primary else None,
        None,
        None,
        frozenset(name for report in evaluated for name in report.get("trained_on", ())),
        ", ".join(dict.fromkeys(filter(None, map(marks.selected_among, evaluated)))),
        seconds,
    )


def _over_images(sweep: Sweep, metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Paired]:
    """If the primary metric is a likelihood: each configuration's difference in negative log-likelihood from the
    baseline, in nats, paired by test image. It is a mean over the seeds of both whose trials stored per-image
    values."""
    values: dict[str, dict[int, np.ndarray]] = {}
    for trial in sweep.trials if sweep.measure.primary in LIKELIHOODS else ():
        stored = log_probs.read(scores.path(trial, sweep.measure), metrics.get(trial.digest, {}))
        if stored is not None:
            values.setdefault(sweep.configurations[trial.digest], {})[sweep.seeds[trial.digest]] = stored
    base = values.pop(sweep.baseline, {})
    shared = {name: base.keys() & by_seed.keys() for name, by_seed in values.items()}
    return significance.paired(
        {name: np.mean([base[s] - values[name][s] for s in seeds], axis=0) for name, seeds in shared.items() if seeds}
    )


def _swept(sweep: Sweep) -> tuple[str, ...]:
    """The keys in which configurations differ, in the grid's order, without keys that an earlier one determines."""
    configurations = [flatten(group[0].values) for group in sweep.by_configuration().values()]
    named = [key for trial in sweep.trials for key in flatten(trial.overrides)]
    several = [key for key in dict.fromkeys(named) if len({str(flat.get(key)) for flat in configurations}) > 1]
    replicated = {key for group in sweep.by_configuration().values() for key in _replicated(group)}
    swept: list[str] = []
    for key in (k for k in several if k not in replicated):
        if not any(determines(configurations, earlier, key) for earlier in swept):
            swept.append(key)
    return tuple(swept)


def _replicated(group: Sequence[Trial]) -> list[str]:
    flat = [flatten(trial.values) for trial in group]
    return [key for key in flat[0] if len({str(values.get(key)) for values in flat}) > 1]


def _protocols(
    done: Sequence[Trial], metrics: Mapping[str, Mapping[str, Any]], names: Sequence[str], mixed: bool
) -> dict[str, str]:
    protocols: dict[str, dict[str, list[str]]] = {name: {} for name in names}
    for trial in done:
        for name in (n for n in names if n in metrics[trial.digest]):
            digest = metrics[trial.digest][name].get("digest", "")
            protocols[name].setdefault(digest, []).append(trial.name)
    for name, digests in protocols.items():
        if len(digests) > 1 and not mixed:
            raise DataError(
                f"{name} was measured under {len(digests)} protocols: {_listed(digests)}. Remove evaluation/ from the "
                "trials of one to have them evaluated anew, or give --mixed to compare them all the same."
            )
    return {name: ", ".join(digests) for name, digests in protocols.items()}


def _manifest(trial: Trial) -> dict[str, Any]:
    """The flat manifest without volatile keys. A value that changed when the run was resumed lists all its values."""
    manifest = run.read_json(trial.workdir, "manifest.json")
    flat = {k: v for k, v in flatten(manifest).items() if not k.startswith(VOLATILE_KEYS)}
    for later in manifest.get("resumed", []):
        for key, value in flatten(later).items():
            if key in flat and value != flat[key]:
                flat[key] = f"{flat[key]}, then {value}"
    return flat


def _differences(done: Sequence[Trial], manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    differing: dict[str, dict[str, list[str]]] = {}
    for key in dict.fromkeys(key for manifest in manifests.values() for key in manifest):
        values: dict[str, list[str]] = {}
        for trial in done:
            values.setdefault(str(manifests[trial.digest].get(key)), []).append(trial.name)
        if len(values) > 1:
            differing[key] = values
    return differing


def _refuse_mixture(differing: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    for what, keys in (("data", (DATA,)), ("code", CODE)):
        for key in (k for k in keys if k in differing):
            raise DataError(
                f"the trials do not share their {what}: {key} is {_listed(differing[key])}. Run those that are out of "
                "line anew, in a sweep of its own, or give --mixed to compare them all the same."
            )


def _listed(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(
        f"{value} in {len(names)} trial{'s' * (len(names) > 1)} such as {names[0]}" for value, names in groups.items()
    )
