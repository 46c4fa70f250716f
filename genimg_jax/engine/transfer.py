"""The arrays of another run as the start of a new one, with a report of those that do not fit."""

import functools
import itertools
import posixpath
import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax

from genimg_jax import core
from genimg_jax.engine import checkpoint
from genimg_jax.errors import CheckpointError

MATCHES_SHOWN = 18  # lines about groups and subtrees
STATE = checkpoint.FILED["model_state"]


def transfer(
    state: core.TrainState, store: checkpoint.Store, step: int, frozen: Mapping[str, Collection[str]] = {}
) -> tuple[core.TrainState, dict[str, Any]]:
    """The state with the parameters, their averages and the arrays of `model_state`, such as batch statistics, that
    another run has at the same path in the same shape; and the part of the manifest about them.

    Raises `CheckpointError` if there is no such parameter, or none for a subtree that is `frozen`, {group: names on
    paths}: its random values would be kept.
    """
    stored = checkpoint.restore_untyped(store, step)

    def find(*names: str) -> jax.Array | None:
        """The array of the first of these names that exists."""
        return next((stored[place] for name in names if (place := checkpoint.place(name, stored)) in stored), None)

    def pick(part: str, path: tuple, mine: jax.Array) -> jax.Array:
        array = find(f"{part}/{checkpoint.path_name(path)}")
        return jax.device_put(array, mine.sharding) if _fits(array, mine) else mine

    def average(path: tuple, mine: jax.Array) -> jax.Array:
        """The other run's average, else its parameters: never an average of parameters that were not loaded."""
        name = checkpoint.path_name(path)
        array = find(f"ema/{name}", re.sub(r"@\d+/", "/", f"params/{name}", count=1))
        # Not the parameter's own buffer: the step donates both.
        return jax.device_put(array, mine.sharding, may_alias=False) if _fits(array, mine) else mine

    pairs = {name: (find(f"params/{name}"), mine) for name, mine in checkpoint.named(state.params).items()}
    if not any(_fits(*pair) for pair in pairs.values()):
        raise CheckpointError(f"init_from: no array of {store.directory} step {step} matches this model.")
    for name, pair in pairs.items():
        group, _, path = name.partition("/")
        if not set(frozen.get(group, ())).isdisjoint(path.split("/")) and not _fits(*pair):
            raise CheckpointError(
                f"init_from: optimizer.{group}.frozen keeps the random values of {name}, because {store.directory} "
                f"step {step} has no such array of that shape; leave what it lacks out of optimizer.{group}.frozen."
            )
    inner = checkpoint.named(state.model_state)
    pairs |= {f"{STATE}/{name}": (find(f"{STATE}/{name}"), mine) for name, mine in inner.items()}
    taken, matches = sum(_fits(*pair) for pair in pairs.values()), _matches(pairs)
    print(f"took {taken} of {len(pairs)} arrays from {store.directory} step {step}")
    few = len(matches) <= MATCHES_SHOWN
    shown = [f"  {place}: {text}" for place, text in matches.items() if few or not text.startswith("all")]
    print(*shown[:MATCHES_SHOWN], sep="\n")
    if not few:
        print(f"  and {len(matches) - len(shown[:MATCHES_SHOWN])} more: see init_from in manifest.json")
    origin = {"directory": str(store.directory), "step": step, "arrays": matches}
    state = state.replace(
        params=jax.tree_util.tree_map_with_path(functools.partial(pick, "params"), state.params),
        ema_params=jax.tree_util.tree_map_with_path(average, state.ema_params),
        model_state=jax.tree_util.tree_map_with_path(functools.partial(pick, STATE), state.model_state),
    )
    return state, {"init_from": origin}


def _fits(there: jax.Array | None, mine: jax.Array) -> bool:
    return there is not None and (there.shape, there.dtype) == (mine.shape, mine.dtype)


def _matches(pairs: Mapping[str, tuple[jax.Array | None, jax.Array]]) -> dict[str, str]:
    """How many arrays fit, and why others do not: of each group, and of the first subtrees of groups that lack some.

    `pairs` is {array's path: (the array there, the array here)}; a module around a whole group counts as the group.
    """
    texts: dict[str, str] = {}

    def describe(place: str, names: Sequence[str], example: bool) -> str:
        misfits = [name for name in names if not _fits(*pairs[name])]
        text = f"{len(names) - len(misfits)} of {len(names)}" if misfits else f"all {len(names)}"
        for why, is_absent in (("absent there", True), ("of another shape", False)):
            if some := [name for name in misfits if (pairs[name][0] is None) == is_absent]:
                there, mine = pairs[some[0]]
                shapes = "" if is_absent else f" is {jax.typeof(there)} there, {jax.typeof(mine)} here"
                first = f": {some[0].removeprefix(place + '/')}{shapes}" + ", ..." * (len(some) > 1)
                text += f"; {len(some)} {why}" + first * example
        return text

    for group, inside in itertools.groupby(pairs, lambda name: name.partition("/")[0]):
        names = list(inside)
        texts[group] = describe(group, names, example=False)
        depth = posixpath.commonpath(names).count("/") + 2
        for place, part in itertools.groupby(names, lambda name, depth=depth: "/".join(name.split("/")[:depth])):
            if not texts[group].startswith("all"):
                texts[place] = describe(place, list(part), example=True)
    return texts
