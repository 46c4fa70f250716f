"""Trials that differ only in seeds and float options, trained as one program.

On a CPU each core trains a part of the group in its own process. Accelerators belong to one process, and the group is
divided over its devices. In both cases each trial has its own run directory, like a separate run.
"""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from genimg_jax.engine import config as configs
from genimg_jax.engine import runtime
from genimg_jax.sweeps import local
from genimg_jax.sweeps.trials import Launcher, Trial

MOST = 64  # trials of one program: all their states are in memory
SHOWN = 3  # names in a sentence


class Groups(NamedTuple):
    together: list[list[Trial]]  # groups of two or more trials
    alone: list[Trial]
    sentence: str  # what was grouped, and why the others were not


def launcher(workers: int = 0, where_it_pays: bool = False) -> Launcher:
    """Trains trials that can share a program as one program, and the others as `local` does, with the same workers.

    A trial of a group that failed is tried once more by itself, unless its numbers stopped being finite.
    `where_it_pays` trains convolutional networks on a CPU as `local` does: several runs as one program took 1.4 times
    as long there as one after another.
    """

    def divide(trials: Sequence[Trial], workers: int) -> list[list[Trial]]:
        grouped = groups(trials, where_it_pays and runtime.cpu_only())
        if trials:
            print(grouped.sentence)
        jobs = [part for group in grouped.together for part in parts(group, workers)]
        return jobs + [[trial] for trial in grouped.alone]

    return local.job_launcher(workers, divide)


def groups(trials: Sequence[Trial], without_convolutions: bool = False) -> Groups:
    """Divides trials into those that are trained as one program and those that cannot be, or should not."""
    from genimg_jax.engine import vmapped

    vmappable: dict[str, list[Trial]] = {}
    excluded: dict[str, list[Trial]] = {}
    for trial in trials:
        if reason := vmapped.why_not_vmappable(trial.values):
            excluded.setdefault(reason, []).append(trial)
        else:
            vmappable.setdefault(json.dumps(vmapped.shared(trial.values), sort_keys=True), []).append(trial)
    together = [group for group in vmappable.values() if len(group) > 1]
    for group in [g for g in together if without_convolutions and vmapped.has_convolutions(g[0].values)]:
        together.remove(group)
        excluded.setdefault("convolutions of several runs at once are slow on a CPU", []).extend(group)
    single = [group[0] for group in vmappable.values() if len(group) == 1]
    sentences = [f"{len(group)} trials as one program: they differ in {_keys(group)}." for group in together]
    shapes = _keys(group[0] for group in vmappable.values())
    if single:
        why = f", whose {shapes} no other shares" if len(vmappable) > 1 else ""
        sentences.append(f"{_names(single)} alone{why}.")
    elif len(vmappable) > 1:
        sentences.append(f"Programs are apart because of {shapes}.")
    sentences += [f"{_names(group)} alone, because {reason}." for reason, group in excluded.items()]
    alone = [*single, *(trial for group in excluded.values() for trial in group)]
    return Groups(together, alone, " ".join(sentences))


def _keys(trials: Iterable[Trial]) -> str:
    """The keys in which trials differ."""
    flat = [configs.flatten(trial.values) for trial in trials]
    keys = dict.fromkeys(key for values in flat for key in values)
    return ", ".join(key for key in keys if any(values.get(key) != flat[0].get(key) for values in flat))


def _names(trials: Sequence[Trial]) -> str:
    rest = len(trials) - SHOWN
    return "; ".join(trial.name for trial in trials[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def parts(group: Sequence[Trial], workers: int) -> list[list[Trial]]:
    """Divides a group into nearly equal parts: one per worker, or more if parts would be too large."""
    count = max(min(workers, len(group)), -(-len(group) // MOST))
    return [list(group[len(group) * i // count : len(group) * (i + 1) // count]) for i in range(count)]
