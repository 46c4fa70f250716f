"""What a sweep found, for its report: scores by setting and seed, comparisons, and what its cells do not share.

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
from genimg_jax.sweeps import cells, plan, scores, statistics
from genimg_jax.sweeps.cells import Cell
from genimg_jax.sweeps.grid import determines
from genimg_jax.sweeps.plan import Sweep
from genimg_jax.sweeps.statistics import Comparison, Summary

DATA, CODE = "dataset.fingerprint", ("git.commit", "git.diff_hash")


class Setting(NamedTuple):
    """Cells alike but for what only repeats them."""

    name: str
    options: Mapping[str, Any]  # what it sets, by flat key, and the base's values of what other settings set
    cells: tuple[Cell, ...]
    values: Mapping[str, Mapping[int, float]]  # metric -> seed -> finite value
    unfinished: int  # cells without a value of the primary metric
    summary: Summary | None  # of the primary metric
    comparison: Comparison | None  # with the baseline; None for it itself, and without shared seeds
    over_images: Paired | None  # see `_over_images`
    trained_on: frozenset[str]  # metrics that the training of one of its cells optimised
    selected: str  # among how many each cell's figures were; "" where reports do not say
    seconds: float  # of training, all its cells


class Findings(NamedTuple):
    settings: tuple[Setting, ...]
    swept: tuple[str, ...]  # flat keys of which settings have several values
    protocols: Mapping[str, str]  # metric -> digest
    differences: Mapping[str, Mapping[str, Sequence[str]]]  # manifest key -> value -> names of cells
    manifests: Mapping[str, Mapping[str, Any]]  # by digest of the cell, flat
    mixture: tuple[str, ...]  # what should have been alike and is not, where it was asked not to mind


def find(sweep: Sweep, mixed: bool = False) -> Findings:
    """All of it, from files. Raises `DataError` where cells do not compare and `mixed` is False: other data, other
    code, or a metric measured in two ways."""
    measure = sweep.measure
    done = [cell for cell in sweep.cells if cells.trained(cell)]
    reports = {cell.digest: scores.report(cell, measure) for cell in done}
    metrics = {digest: report.get("metrics", {}) for digest, report in reports.items()}
    scores.check_measured(measure, dict.fromkeys(name for found in metrics.values() for name in found))
    manifests = {cell.digest: _manifest(cell) for cell in done}
    differing = _differences(done, manifests)
    protocols = _protocols(done, metrics, (measure.primary, *measure.also), mixed)
    mixture = [key for key in (DATA, *CODE) if key in differing]
    mixture += [f"the protocol of {name}" for name, digests in protocols.items() if "," in digests]
    if not mixed:
        _refuse_mixture(differing)
    swept = _swept(sweep)
    spent = plan.outcomes(sweep.workdir)
    found = [
        _setting(name, group, swept, sweep, reports, sum(_seconds(spent.get(cell.digest, [])) for cell in group))
        for name, group in sweep.by_setting().items()
    ]
    compared = statistics.compare({s.name: s.values[measure.primary] for s in found}, sweep.baseline)
    paired = {} if "," in protocols[measure.primary] else _over_images(sweep, metrics)
    settings = tuple(s._replace(comparison=compared.get(s.name), over_images=paired.get(s.name)) for s in found)
    return Findings(settings, swept, protocols, differing, manifests, tuple(mixture))


def _seconds(lines: Sequence[Mapping[str, Any]]) -> float:
    return sum(line["seconds"] for line in lines)


def _setting(
    name: str,
    group: Sequence[Cell],
    swept: Sequence[str],
    sweep: Sweep,
    reports: Mapping[str, Mapping[str, Any]],
    seconds: float,
) -> Setting:
    evaluated = [reports[cell.digest] for cell in group if reports.get(cell.digest)]
    metrics = {cell.digest: reports.get(cell.digest, {}).get("metrics", {}) for cell in group}
    values: dict[str, dict[int, float]] = {}
    for metric in (sweep.measure.primary, *sweep.measure.also):
        each = {sweep.seeds[c.digest]: scores.value(metrics[c.digest], metric) for c in group}
        values[metric] = {seed: value for seed, value in each.items() if math.isfinite(value)}
    primary = values[sweep.measure.primary]
    flat = flatten(group[0].values)
    return Setting(
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
    """Where the primary metric is a likelihood, how each setting's negative log-likelihood differs from the baseline's
    in nats, paired by test image: the mean over the seeds that both have, of cells that stored their images'."""
    values: dict[str, dict[int, np.ndarray]] = {}
    for cell in sweep.cells if sweep.measure.primary in LIKELIHOODS else ():
        stored = log_probs.read(scores.path(cell, sweep.measure), metrics.get(cell.digest, {}))
        if stored is not None:
            values.setdefault(sweep.settings[cell.digest], {})[sweep.seeds[cell.digest]] = stored
    base = values.pop(sweep.baseline, {})
    shared = {name: base.keys() & each.keys() for name, each in values.items()}
    return significance.paired(
        {name: np.mean([base[s] - values[name][s] for s in seeds], axis=0) for name, seeds in shared.items() if seeds}
    )


def _swept(sweep: Sweep) -> tuple[str, ...]:
    """The keys in which the settings differ, in the grid's order, but none that goes with an earlier one."""
    settings = [flatten(group[0].values) for group in sweep.by_setting().values()]
    named = [key for cell in sweep.cells for key in flatten(cell.overrides)]
    several = [key for key in dict.fromkeys(named) if len({str(flat.get(key)) for flat in settings}) > 1]
    replicated = {key for group in sweep.by_setting().values() for key in _replicated(group)}
    found: list[str] = []
    for key in (k for k in several if k not in replicated):
        if not any(determines(settings, earlier, key) for earlier in found):
            found.append(key)
    return tuple(found)


def _replicated(group: Sequence[Cell]) -> list[str]:
    flat = [flatten(cell.values) for cell in group]
    return [key for key in flat[0] if len({str(values.get(key)) for values in flat}) > 1]


def _protocols(
    done: Sequence[Cell], metrics: Mapping[str, Mapping[str, Any]], names: Sequence[str], mixed: bool
) -> dict[str, str]:
    found: dict[str, dict[str, list[str]]] = {name: {} for name in names}
    for cell in done:
        for name in (n for n in names if n in metrics[cell.digest]):
            digest = metrics[cell.digest][name].get("digest", "")
            found[name].setdefault(digest, []).append(cell.name)
    for name, digests in found.items():
        if len(digests) > 1 and not mixed:
            raise DataError(
                f"{name} was measured under {len(digests)} protocols: {_listed(digests)}. Remove evaluation/ from the "
                "cells of one to have them evaluated anew, or give --mixed to compare them all the same."
            )
    return {name: ", ".join(digests) for name, digests in found.items()}


def _manifest(cell: Cell) -> dict[str, Any]:
    """Flat, without what passes; where a run was resumed under something else, every value it had."""
    manifest = run.read_json(cell.workdir, "manifest.json")
    flat = {k: v for k, v in flatten(manifest).items() if not k.startswith(VOLATILE_KEYS)}
    for later in manifest.get("resumed", []):
        for key, value in flatten(later).items():
            if key in flat and value != flat[key]:
                flat[key] = f"{flat[key]}, then {value}"
    return flat


def _differences(done: Sequence[Cell], manifests: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, list[str]]]:
    found: dict[str, dict[str, list[str]]] = {}
    for key in dict.fromkeys(key for manifest in manifests.values() for key in manifest):
        values: dict[str, list[str]] = {}
        for cell in done:
            values.setdefault(str(manifests[cell.digest].get(key)), []).append(cell.name)
        if len(values) > 1:
            found[key] = values
    return found


def _refuse_mixture(differing: Mapping[str, Mapping[str, Sequence[str]]]) -> None:
    for what, keys in (("data", (DATA,)), ("code", CODE)):
        for key in (k for k in keys if k in differing):
            raise DataError(
                f"the cells do not share their {what}: {key} is {_listed(differing[key])}. Run those that are out of "
                "line anew, in a sweep of its own, or give --mixed to compare them all the same."
            )


def _listed(groups: Mapping[str, Sequence[str]]) -> str:
    return "; ".join(
        f"{value} in {len(names)} cell{'s' * (len(names) > 1)} such as {names[0]}" for value, names in groups.items()
    )
