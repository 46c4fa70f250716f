"""An experiment: `experiments/NAME.py` with `get_experiment(variant)`, which returns `experiment(...)`.

Everything is checked here, before anything starts, so that errors can name the file and its line.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from genimg_jax import directions
from genimg_jax.engine import config as configs
from genimg_jax.engine import config_files
from genimg_jax.engine.config_differences import differences
from genimg_jax.errors import ConfigError
from genimg_jax.options import nearest
from genimg_jax.sweeps import grid as grids
from genimg_jax.sweeps.grid import Grid, Overrides

BETTER, SUITES = ("lower", "higher"), ("likelihood", "full")


class Measure(NamedTuple):
    """What an experiment measures: metrics of `genimg evaluate`, of one checkpoint of each trial."""

    primary: str
    better: str  # 'lower' or 'higher'
    also: tuple[str, ...]  # reported beside the primary one, without tests
    checkpoint: str  # best, last, or a step
    suite: str  # likelihood, or full


class Planned(NamedTuple):
    """A trial before it has a directory."""

    name: str
    configuration: str  # the name of its configuration, without the seed
    point: Overrides
    values: Mapping[str, Any]  # the complete configuration, as in JSON
    digest: str


class Experiment(NamedTuple):
    question: str
    measure: Measure
    baseline: str  # the name of the configuration that others are compared with
    trials: tuple[Planned, ...]


def experiment(
    question: str,
    base: ConfigDict,
    grid: Grid,
    metric: str,
    baseline: Mapping[str, Any],
    better: str = "",
    settings: Mapping[str, Any] | None = None,
    also: Sequence[str] = (),
    checkpoint: str = "best",
    suite: str = "likelihood",
) -> Experiment:
    """The checked experiment: `settings` override `base`, and each point of `grid` overrides both.

    `baseline` holds enough of the baseline configuration's overrides to identify it; {} if only the seed is swept.
    `better` is needed only for metrics without a direction in directions.py. Raises `ConfigError` for an unknown key,
    an invalid value, an empty grid, two trials that are the same run, and a baseline that is not exactly one
    configuration.
    """
    declared = directions.of(metric).better
    better = better or declared
    for name, value, allowed in (("better", better, BETTER), ("suite", suite, SUITES)):
        if value not in allowed:
            raise ConfigError(f"{name} is {value!r}{nearest(value, allowed)} It must be {' or '.join(allowed)}.")
    if declared not in ("", better):
        raise ConfigError(f"better is {better!r}, but of {metric} {declared} is better; leave better out.")
    if not grid:
        raise ConfigError("the grid is empty; a grid of `seeds(5)` repeats the base configuration.")
    common = grids.overlay(_plain(base.to_dict()), settings or {})
    configs.resolve(common)
    names, configurations_of = grids.names(grid), grids.configuration_names(grid)
    trials = tuple(_planned(common, *about) for about in zip(grid, names, configurations_of, strict=True))
    _refuse_repeated(trials)
    measure = Measure(metric, better, tuple(also), checkpoint, suite)
    return Experiment(question, measure, _find_baseline(trials, baseline), trials)


def load(path: str) -> Experiment:
    """The experiment of `file.py` or `file.py:variant`. Raises `ConfigError` naming file and line."""
    loaded = config_files.call(path, "get_experiment")
    if not isinstance(loaded, Experiment):
        raise ConfigError(f"{path}: get_experiment returned {type(loaded).__name__}; return `experiment(...)`.")
    return loaded


def _plain(values: Any) -> Any:
    """The values as JSON returns them: planned, written and read values must be equal."""
    if isinstance(values, Mapping):
        return {name: _plain(value) for name, value in values.items()}
    return list(values) if isinstance(values, tuple) else values


def _planned(common: Mapping[str, Any], point: Overrides, name: str, configuration: str) -> Planned:
    values = _plain(configs.located(grids.overlay(common, point.overrides)))
    configs.resolve(values)
    return Planned(name, configuration, point, values, configs.digest(values))


def _refuse_repeated(trials: Sequence[Planned]) -> None:
    first: dict[str, Planned] = {}
    for trial in trials:
        other = first.setdefault(trial.digest, trial)
        if other is trial:
            continue
        differing = differences(other.values, trial.values)
        how = f"they differ in {', '.join(d.key for d in differing)} alone, which changes nothing that is computed"
        raise ConfigError(
            f"the trials {other.name} and {trial.name} are one run: {how if differing else 'nothing differs'}."
        )


def _find_baseline(trials: Sequence[Planned], baseline: Mapping[str, Any]) -> str:
    configurations = {trial.configuration: configs.flatten(trial.values) for trial in trials}
    swept = list(dict.fromkeys(key for trial in trials for key in trial.point.configuration))
    for key in baseline:
        if key not in swept:
            raise ConfigError(f"the baseline sets {key}, which no trial does{nearest(key, swept)}")
    wanted = configs.flatten(baseline)
    matching = [name for name, flat in configurations.items() if all(flat.get(k) == v for k, v in wanted.items())]
    exact = [trial.configuration for trial in trials if configs.flatten(trial.point.configuration) == wanted]
    matching = exact[:1] or matching
    if len(matching) != 1:
        which = f"{len(matching)} configurations ({'; '.join(matching)})" if matching else "none of the configurations"
        raise ConfigError(f"the baseline {dict(baseline)} is {which}; it must be one of: {'; '.join(configurations)}.")
    return matching[0]
