"""What a sweep found, for its report: scores by configuration and seed, comparisons, and what its trials do not share.

Figures are put beside one another where they mean the same: one protocol a metric, one data set, one version of the
code.
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
    """Trials alike but for what only repeats them."""

    name: str
    options: Mapping[str, Any]  # what it sets, by flat key, and the base's values of what other configurations set
    trials: tuple[Trial, ...]
    values: Mapping[str, Mapping[int, float]]  # metric -> seed -> finite value
    unfinished: int  # trials without a value of the primary metric
    summary: Summary | None  # of the primary metric
    comparison: Comparison | None  # with the baseline; None for it itself, and without shared seeds
    over_images: Paired | None  # see `_over_images`
    trained_on: frozenset[str]  # metrics that the training of one of its trials optimised
    selected: str  # among how many each trial's figures were; "" where reports do not say
    seconds: float  # of training, all its trials


class Findings(NamedTuple):
    configurations: tuple[Configuration, ...]
    swept: tuple[str, ...]  # flat keys of which configurations have several values
    protocols: Mapping[str, str]  # metric -> digest
    differences: Mapping[str, Mapping[str, Sequence[str]]]  # manifest key -> value -> names of trials
    manifests: Mapping[str, Mapping[str, Any]]  # by digest of the trial, flat
    mixture: tuple[str, ...]  # what should have been alike and is not, where it was asked not to mind


def find(sweep: Sweep, mixed: bool = False) -> Findings:
    """All of it, from files. Raises `DataError` where trials do not compare and `mixed` is False: other data, other
    code, or a metric measured in two ways."""
    measure = sweep.measure
    done = [trial for trial in sweep.trials if trials.trained(trial)]
    reports = {trial.digest: scores.report(trial, measure) for trial in done}
    metrics = {digest: report.get("metrics", {}) for digest, report in reports.items()}
    scores.check_measured(measure, dict.fromkeys(name for found in metrics.values() for name in found))
    manifests = {trial.digest: _manifest(trial) for trial in done}
    differing = _differences(done, manifests)
    protocols = _protocols(done, metrics, (measure.primary, *measure.also), mixed)
    mixture = [key for key in (DATA, *CODE) if key in differing]
    mixture += [f"the protocol of {name}" for name, digests in protocols.items() if "," in digests]
    if not mixed:
        _refuse_mixture(differing)
    swept = _swept(sweep)
    spent = plan.outcomes(sweep.workdir)
    found = [
        _configuration(
            name, group, swept, sweep, reports, sum(_seconds(spent.get(trial.digest, [])) for trial in group)
        )
        for name, group in sweep.by_configuration().items()
    ]
    compared = statistics.compare({s.name: s.values[measure.primary] for s in found}, sweep.baseline)
    paired = {} if "," in protocols[measure.primary] else _over_images(sweep, metrics)
    configurations = tuple(s._replace(comparison=compared.get(s.name), over_images=paired.get(s.name)) for s in found)
    return Findings(configurations, swept, protocols, differing, manifests, tuple(mixture))


def _seconds(lines: Sequence[Mapping[str, Any]]) -> float:
    return sum(line["seconds"] for line in lines)


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
        each = {sweep.seeds[c.digest]: scores.value(metrics[c.digest], metric) for c in group}
        values[metric] = {seed: value for seed, value in each.items() if math.isfinite(value)}
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
    """If the primary metric is a likelihood: by how much each configuration's negative log-likelihood exceeds the
    baseline's, in nats, paired by test image: a mean over the seeds of both whose trials stored those of images."""
    values: dict[str, dict[int, np.ndarray]] = {}
    for trial in sweep.trials if sweep.measure.primary in LIKELIHOODS else ():
        stored = log_probs.read(scores.path(trial, sweep.measure), metrics.get(trial.digest, {}))
        if stored is not None:
            values.setdefault(sweep.configurations[trial.digest], {})[sweep.seeds[trial.digest]] = stored
    base = values.pop(sweep.baseline, {})
    shared = {name: base.keys() & each.keys() for name, each in values.items()}
    return significance.paired(
        {name: np.mean([base[s] - values[name][s] for s in seeds], axis=0) for name, seeds in shared.items() if seeds}
    )


def _swept(sweep: Sweep) -> tuple[str, ...]:
    """The keys in which the configurations differ, in the grid's order, but none that goes with an earlier one."""
    configurations = [flatten(group[0].values) for group in sweep.by_configuration().values()]
    named = [key for trial in sweep.trials for key in flatten(trial.overrides)]
    several = [key for key in dict.fromkeys(named) if len({str(flat.get(key)) for flat in configurations}) > 1]
    replicated = {key for group in sweep.by_configuration().values() for key in _replicated(group)}
    found: list[str] = []
    for key in (k for k in several if k not in replicated):
        if not any(determines(configurations, earlier, key) for earlier in found):
            found.append(key)
    return tuple(found)


def _replicated(group: Sequence[Trial]) -> list[str]:
    flat = [flatten(trial.values) for trial in group]
    return [key for key in flat[0] if len({str(values.get(key)) for values in flat}) > 1]


def _protocols(
    done: Sequence[Trial], metrics: Mapping[str, Mapping[str, Any]], names: Sequence[str], mixed: bool
) -> dict[str, str]:
    found: dict[str, dict[str, list[str]]] = {name: {} for name in names}
    for trial in done:
        for name in (n for n in names if n in metrics[trial.digest]):
            digest = metrics[trial.digest][name].get("digest", "")
            found[name].setdefault(digest, []).append(trial.name)
    for name, digests in found.items():
        if len(digests) > 1 and not mixed:
            raise DataError(
                f"{name} was measured under {len(digests)} protocols: {_listed(digests)}. Remove evaluation/ from the "
                "trials of one to have them evaluated anew, or give --mixed to compare them all the same."
            )
    return {name: ", ".join(digests) for name, digests in found.items()}


def _manifest(trial: Trial) -> dict[str, Any]:
    """Flat, without what passes; where a run was resumed under something else, every value it had."""
    manifest = run.read_json(trial.workdir, "manifest.json")
    flat = {k: v for k, v in flatten(manifest).items() if not k.startswith(VOLATILE_KEYS)}
    for later in manifest.get("resumed", []):
        for key, value in flatten(later).items():
            if key in flat and value != flat[key]:
                flat[key] = f"{flat[key]}, then {value}"
    return flat


def _differences(done: Sequence[Trial], manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for key in dict.fromkeys(key for manifest in manifests.values() for key in manifest):
        values: dict[str, list[str]] = {}
        for trial in done:
            values.setdefault(str(manifests[trial.digest].get(key)), []).append(trial.name)
        if len(values) > 1:
            found[key] = values
    return found


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
