"""A sweep's directory: `sweep.json` lists the trials, `outcomes.jsonl` how their trainings ended.

    SWEEP/sweep.json  outcomes.jsonl  cells/NAME/ (run directories)  report.md  report.html

The digest of its configuration identifies a trial. Trials may be added to an experiment, and renamed; planned trials
may not change.
"""

import json
import os
import pathlib
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genimg_jax import files
from genimg_jax.engine import config as configs
from genimg_jax.engine import run
from genimg_jax.engine.config_differences import differences, table
from genimg_jax.engine.old_configs import complete
from genimg_jax.errors import ConfigError
from genimg_jax.sweeps.experiment import Experiment, Measure, Planned
from genimg_jax.sweeps.trials import Outcome, Trial

PLAN, OUTCOMES = "sweep.json", "outcomes.jsonl"
LONGEST_NAME = 120  # of a directory


class Sweep(NamedTuple):
    """An experiment that has a directory."""

    workdir: pathlib.Path
    question: str
    measure: Measure
    baseline: str  # a configuration
    trials: tuple[Trial, ...]
    configurations: Mapping[str, str]  # by a trial's digest
    seeds: Mapping[str, int]  # by a trial's digest

    def by_configuration(self) -> dict[str, list[Trial]]:
        groups: dict[str, list[Trial]] = {}
        for trial in self.trials:
            groups.setdefault(self.configurations[trial.digest], []).append(trial)
        return groups


def plan(experiment: Experiment, workdir: pathlib.Path) -> tuple[Sweep, list[str]]:
    """The sweep of the experiment in its directory, and the names of planned trials that the experiment no longer has.

    Writes nothing. Raises `ConfigError` if planned trials have changed.
    """
    before = _read(workdir)["cells"] if (workdir / PLAN).is_file() else []
    known = {record["digest"]: record for record in before}
    planned = {trial.digest: trial for trial in experiment.trials}
    missing = [record for record in before if record["digest"] not in planned]
    added = [trial for trial in experiment.trials if trial.digest not in known]
    if missing and added:
        raise ConfigError(_changed(workdir, missing, added))
    taken = {record["directory"] for record in before}
    trials = []
    for trial in experiment.trials:
        directory = known[trial.digest]["directory"] if trial.digest in known else _directory(trial, taken)
        taken.add(directory)
        trials.append(Trial(trial.name, trial.point.overrides, trial.values, trial.digest, _place(workdir, directory)))
    configurations = {trial.digest: trial.configuration for trial in experiment.trials}
    seeds = {trial.digest: trial.values["seed"] for trial in experiment.trials}
    sweep = Sweep(
        workdir, experiment.question, experiment.measure, experiment.baseline, tuple(trials), configurations, seeds
    )
    return sweep, [record["name"] for record in missing]


def write(sweep: Sweep, source: str) -> None:
    """Writes `sweep.json`, which keeps trials that the experiment no longer has. `source` is the experiment's file."""
    before = _read(sweep.workdir)["cells"] if (sweep.workdir / PLAN).is_file() else []
    records = [
        {
            "name": trial.name,
            "setting": sweep.configurations[trial.digest],
            "seed": sweep.seeds[trial.digest],
            "digest": trial.digest,
            "directory": trial.workdir.name,
            "overrides": dict(trial.overrides),
            "values": dict(trial.values),
        }
        for trial in sweep.trials
    ]
    now = {trial.digest for trial in sweep.trials}
    left_out = [{**record, "left_out": True} for record in before if record["digest"] not in now]
    about = {
        "experiment": source,
        "question": sweep.question,
        "baseline": sweep.baseline,
        "measure": sweep.measure._asdict(),
    }
    files.write_json(sweep.workdir / PLAN, {**about, "cells": records + left_out})


def read(workdir: pathlib.Path) -> Sweep:
    """The sweep in a directory. Raises `ConfigError` if there is none."""
    plan = _read(workdir)
    records = [record for record in plan["cells"] if not record.get("left_out")]
    measure = {**plan["measure"], "also": tuple(plan["measure"]["also"])}
    return Sweep(
        workdir,
        plan["question"],
        Measure(**measure),
        plan["baseline"],
        tuple(
            Trial(r["name"], r["overrides"], r["values"], r["digest"], _place(workdir, r["directory"])) for r in records
        ),
        {record["digest"]: record["setting"] for record in records},
        {record["digest"]: record["seed"] for record in records},
    )


def _read(workdir: pathlib.Path) -> dict[str, Any]:
    if not (workdir / PLAN).is_file():
        raise ConfigError(f"{workdir} holds no sweep: it has no {PLAN}; start one with genimg sweep experiments/...")
    plan = run.read_json(workdir, PLAN)
    # Digests are recomputed: older versions may have recorded relative paths, or lacked an option.
    trials = [{**trial, "digest": configs.digest(complete(trial["values"]))} for trial in plan["cells"]]
    return {**plan, "cells": trials}


def _place(workdir: pathlib.Path, directory: str) -> pathlib.Path:
    return workdir / "cells" / directory


def _directory(trial: Planned, taken: set[str]) -> str:
    name = re.sub(r"[^\w.=,+-]+", "_", trial.name)
    fits = len(name) <= LONGEST_NAME and name not in taken
    return name if fits else f"{name[: LONGEST_NAME - 17]}-{trial.digest}"


def _changed(workdir: pathlib.Path, missing: Sequence[Mapping], added: Sequence[Planned]) -> str:
    """The error message: how the first trial with an unchanged name differs, or that there is none."""
    old = {record["name"]: record for record in missing}
    same = [trial for trial in added if trial.name in old]
    if same:
        differing = differences(old[same[0].name]["values"], same[0].values)
        unsafe = [d for d in differing if not d.safe] or differing  # others, such as more steps, are allowed
        how = f"{len(same)} of its trials, such as {same[0].name}, are others now:\n{table(unsafe)}"
    else:
        how = f"it lacks {missing[0]['name']} and has {added[0].name}, which was not planned."
    return (
        f"{workdir} is a sweep of another experiment: {how}\nTrials may be added to a sweep, not changed; "
        "use another --workdir."
    )


def record(workdir: pathlib.Path, outcome: Outcome) -> None:
    """Adds one line to the sweep's outcomes."""
    line = {
        "cell": outcome.trial.name,
        "digest": outcome.trial.digest,
        "status": outcome.status,
        "seconds": round(outcome.seconds, 3),
        "ended": run.now(),
        "message": outcome.message,
    }
    with (workdir / OUTCOMES).open("a+b") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(size - 1, 0))
        newline = b"" if file.read(1) in (b"", b"\n") else b"\n"  # after a line that a crash cut short
        file.write(newline + json.dumps(line).encode() + b"\n")


def outcomes(workdir: pathlib.Path) -> dict[str, list[dict[str, Any]]]:
    """Every recorded outcome, by the trial's digest, oldest first."""
    recorded: dict[str, list[dict[str, Any]]] = {}
    for line in files.read_json_lines(workdir / OUTCOMES):
        recorded.setdefault(line["digest"], []).append(line)
    return recorded
