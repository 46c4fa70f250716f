"""Grids of trials, composed from a few functions: `product(param("model.beta", 1.0, 4.0), seeds(5))`.

A grid is a tuple of `Overrides` of some keys of the base configuration. `overlay` checks them against that
configuration later, once for every trial and before anything starts.
"""

import copy
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from genimg_jax.engine.config import dict_above, flatten
from genimg_jax.errors import ConfigError
from genimg_jax.options import nearest


class Overrides(NamedTuple):
    """The overrides of one trial, by flat key such as "optimizer.learning_rate"."""

    configuration: Mapping[str, Any]  # what the experiment compares
    replicate: Mapping[str, Any]  # what only repeats it: the seed, and keys that follow it

    @property
    def overrides(self) -> dict[str, Any]:
        return {**self.configuration, **self.replicate}


Grid = tuple[Overrides, ...]


def param(key: str, *values: Any) -> Grid:
    """One trial for each value of the key. The key "seed" repeats a configuration, as in `seeds`."""
    if not values:
        raise ConfigError(f"param({key!r}) has no values; give at least one.")
    return tuple(Overrides({}, {key: v}) if key == "seed" else Overrides({key: v}, {}) for v in values)


def seeds(count: int, *also: str) -> Grid:
    """The same experiment `count` times, with seeds 0 to `count` - 1; keys in `also` are set to the seed too.

    Trials of equal seed are compared in pairs: they have the same random streams and the same order of data.
    """
    if count < 1:
        raise ConfigError(f"seeds({count}) is an empty grid; give at least 1.")
    return tuple(Overrides({}, dict.fromkeys(("seed", *also), seed)) for seed in range(count))


def product(*grids: Grid) -> Grid:
    """Every combination of one trial of each grid; the last grid varies fastest."""
    points: Grid = (Overrides({}, {}),)
    for grid in grids:
        points = tuple(_merge(a, b) for a in points for b in grid)
    return points


def zipped(*grids: Grid) -> Grid:
    """Merges the first trials of all grids, then the second ones, and so on."""
    lengths = [len(grid) for grid in grids]
    if len(set(lengths)) > 1:
        raise ConfigError(f"zipped grids have {', '.join(map(str, lengths))} trials; they must have equally many.")
    merged = grids[0] if grids else ()
    for grid in grids[1:]:
        merged = tuple(_merge(a, b) for a, b in zip(merged, grid, strict=True))
    return merged


def chain(*grids: Grid) -> Grid:
    """The trials of all grids in turn. A key that a trial does not set has the base configuration's value."""
    return tuple(point for grid in grids for point in grid)


def _merge(a: Overrides, b: Overrides) -> Overrides:
    twice = [key for key in a.overrides if key in b.overrides]
    if twice:
        raise ConfigError(f"config.{twice[0]} is set by two grids that are combined; let one of them set it.")
    return Overrides({**a.configuration, **b.configuration}, {**a.replicate, **b.replicate})


def overlay(base: Mapping[str, Any], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of the nested configuration `base` with flat keys set. Raises `ConfigError` naming the nearest key.

    `engine.config.resolve` checks types and bounds.
    """
    values = copy.deepcopy(dict(base))
    for key, value in overrides.items():
        *parents, last = key.split(".")
        node = values
        for name in parents:
            node = node.get(name) if isinstance(node, dict) else None
        if not isinstance(node, dict) or not (last in node or dict_above(base, key)):
            raise ConfigError(f"config.{key} is not in the configuration{nearest(key, flatten(base))}")
        node[last] = copy.deepcopy(value)
    return values


def names(points: Sequence[Overrides]) -> list[str]:
    """A name for each point, from the keys that it sets. A key is shortened to its shortest unique ending.

    A key that an earlier one determines, as in `zipped`, is skipped.
    """
    short = _short([point.configuration for point in points]) | _short([point.replicate for point in points])
    return [_name(point.overrides, short) for point in points]


def configuration_names(points: Sequence[Overrides]) -> list[str]:
    """Names of the configurations alone; "base" if nothing else is set."""
    short = _short([point.configuration for point in points])
    return [_name(point.configuration, short) for point in points]


def determines(overrides: Sequence[Mapping[str, Any]], first: str, second: str) -> bool:
    """Whether the value of the first key determines that of the second wherever it is set, and the second varies."""
    if any(second in values and first not in values for values in overrides):
        return False
    pairs = {(written(values.get(first)), written(values.get(second))) for values in overrides}
    return len({value for _, value in pairs}) > 1 and len(pairs) == len({value for value, _ in pairs})


def _short(overrides: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    """The keys that appear in names, with their short forms."""
    keys: list[str] = []
    for key in dict.fromkeys(key for values in overrides for key in values):
        if not any(determines(overrides, earlier, key) for earlier in keys):
            keys.append(key)

    def ending(key: str, parts: int) -> str:
        return ".".join(key.split(".")[-parts:])

    def shortest(key: str) -> str:
        for parts in range(1, key.count(".") + 1):
            if [ending(k, parts) for k in keys].count(ending(key, parts)) == 1:
                return ending(key, parts)
        return key

    return {key: shortest(key) for key in keys}


def _name(overrides: Mapping[str, Any], short: Mapping[str, str]) -> str:
    return ",".join(f"{short[key]}={written(value)}" for key, value in overrides.items() if key in short) or "base"


def written(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), default=str)
