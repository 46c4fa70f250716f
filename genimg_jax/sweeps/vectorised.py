"""Trials that differ in seeds and float options alone, trained as one program.

On a CPU each core trains its part of a group in a process of its own; an accelerator is one process's, whose devices
share the group out. Either way each trial has its own run directory, as if it had run alone.
"""

import json
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from genimg_jax.engine import config as configs
from genimg_jax.engine import runtime
from genimg_jax.sweeps import local
from genimg_jax.sweeps.trials import Launcher, Trial

MOST = 64  # trials of one program: their states are in memory at once
SHOWN = 3  # names in a sentence


class Groups(NamedTuple):
    together: list[list[Trial]]  # each of two trials or more
    alone: list[Trial]
    sentence: str  # what was grouped, and why the others were not


def launcher(workers: int = 0, where_it_pays: bool = False) -> Launcher:
    """Trains trials that can be one program as one, and the others as `local` does, by the same workers.

    What fails in a group, unless by its own numbers, is tried once more by itself. `where_it_pays` leaves convolutions
    on a CPU to `local`: those of several runs at once took 1.4 times as long there as one after another.
    """

    def divide(trials: Sequence[Trial], workers: int) -> list[list[Trial]]:
        found = groups(trials, where_it_pays and runtime.cpu_only())
        if trials:
            print(found.sentence)
        return [part for group in found.together for part in parts(group, workers)] + [[trial] for trial in found.alone]

    return local.job_launcher(workers, divide)


def groups(trials: Sequence[Trial], without_convolutions: bool = False) -> Groups:
    """The trials that can be one program, and those that cannot, or should not."""
    from genimg_jax.engine import vmapped

    alike: dict[str, list[Trial]] = {}
    hindered: dict[str, list[Trial]] = {}
    for trial in trials:
        if reason := vmapped.why_not_vmappable(trial.values):
            hindered.setdefault(reason, []).append(trial)
        else:
            alike.setdefault(json.dumps(vmapped.shared(trial.values), sort_keys=True), []).append(trial)
    together = [group for group in alike.values() if len(group) > 1]
    for group in [g for g in together if without_convolutions and vmapped.has_convolutions(g[0].values)]:
        together.remove(group)
        hindered.setdefault("convolutions of several runs at once are slow on a CPU", []).extend(group)
    single = [group[0] for group in alike.values() if len(group) == 1]
    said = [f"{len(group)} trials as one program: they differ in {_keys(group)}." for group in together]
    shapes = _keys(group[0] for group in alike.values())
    if single:
        why = f", whose {shapes} no other shares" if len(alike) > 1 else ""
        said.append(f"{_names(single)} alone{why}.")
    elif len(alike) > 1:
        said.append(f"Programs are apart because of {shapes}.")
    said += [f"{_names(found)} alone, because {reason}." for reason, found in hindered.items()]
    return Groups(together, [*single, *(trial for found in hindered.values() for trial in found)], " ".join(said))


def _keys(trials: Iterable[Trial]) -> str:
    """What differs between trials, but for what changes no result."""
    flat = [configs.flatten(trial.values) for trial in trials]
    keys = dict.fromkeys(key for values in flat for key in values)
    return ", ".join(key for key in keys if any(values.get(key) != flat[0].get(key) for values in flat))


def _names(trials: Sequence[Trial]) -> str:
    rest = len(trials) - SHOWN
    return "; ".join(trial.name for trial in trials[:SHOWN]) + (f" and {rest} more" if rest > 0 else "")


def parts(group: Sequence[Trial], workers: int) -> list[list[Trial]]:
    """A group as nearly equal parts, one for each worker, or more where they would be too large."""
    count = max(min(workers, len(group)), -(-len(group) // MOST))
    return [list(group[len(group) * i // count : len(group) * (i + 1) // count]) for i in range(count)]
