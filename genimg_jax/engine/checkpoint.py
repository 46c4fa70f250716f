"""The checkpoint store: a thin layer over Orbax that ranks checkpoints and checks whose they are.

A step's directory holds `state` (the train state's arrays, less the frozen ones) and `about` (the configuration, its
digest, and the shape and dtype of every array), so that a checkpoint of something else is refused before a byte of
it is loaded. Orbax writes to a temporary name and renames: a step is listed whole or not at all. A directory that is
named like a step but holds no whole checkpoint is ignored, and renamed when the run is continued.
"""

import math
import pathlib
import sys
import time
from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import AnyPreservationPolicy, BestN, LatestN

from genimg_jax import core, directions, files
from genimg_jax.engine import config as configs
from genimg_jax.engine import parallel
from genimg_jax.errors import CheckpointError


class Store(NamedTuple):
    directory: pathlib.Path
    manager: ocp.CheckpointManager
    best: str  # the metric whose best value, as declared, marks the best checkpoint; "": the last is it


def open_store(workdir: pathlib.Path, keep: int = 1, best: str = "", read_only: bool = False) -> Store:
    """The checkpoints of a run directory. Left-overs of a crash are cleared away and named, unless read only."""
    directory = workdir.absolute() / "checkpoints"
    if not read_only and jax.process_index() == 0:
        _clear(directory)
    policies, higher = [LatestN(keep)], directions.of(best).better == "higher"
    if best:
        policies.append(
            BestN(get_metric_fn=lambda m: m[best], reverse=not higher, n=1, keep_checkpoints_without_metrics=False)
        )
    options = ocp.CheckpointManagerOptions(
        preservation_policy=AnyPreservationPolicy(policies),
        best_fn=(lambda m: m[best]) if best else None,
        best_mode="max" if higher else "min",
        cleanup_tmp_directories=not read_only,
        read_only=read_only,
        create=not read_only,
    )
    handlers = {"state": ocp.StandardCheckpointHandler(), "about": ocp.JsonCheckpointHandler()}
    registry = ocp.DefaultCheckpointHandlerRegistry()
    for name, handler in handlers.items():
        kind = ocp.args.StandardSave if name == "state" else ocp.args.JsonSave
        restore = ocp.args.StandardRestore if name == "state" else ocp.args.JsonRestore
        registry.add(name, kind, handler)
        registry.add(name, restore, handler)
    return Store(directory, ocp.CheckpointManager(directory, options=options, handler_registry=registry), best)


def _whole(step: pathlib.Path) -> bool:
    return all((step / part).is_dir() for part in ("state", "about"))


def _clear(directory: pathlib.Path) -> None:
    for path in sorted(directory.glob("*")):
        if "orbax-checkpoint-tmp" in path.name:
            print(f"removing {path}, which was never finished", file=sys.stderr)  # Orbax does, before it saves
        elif path.name.isdecimal() and not _whole(path):
            aside = path.with_name(f"{path.name}.set-aside-{time.time_ns()}")
            path.rename(aside)
            print(f"{path} is no checkpoint: set aside as {aside.name}", file=sys.stderr)


def steps(store: Store) -> list[int]:
    """The steps that have a checkpoint, in order."""
    return sorted(step for step in store.manager.all_steps() if _whole(store.directory / str(step)))


def path_name(path: tuple) -> str:
    """`params/model/encoder/kernel`, whether the tree holds records or, as stored ones do, dicts alone."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def named(tree: core.Tree) -> dict[str, Any]:
    """{leaf's path: leaf}."""
    return {path_name(path): leaf for path, leaf in jax.tree_util.tree_leaves_with_path(tree)}


def shapes(state: core.TrainState) -> dict[str, list]:
    """{leaf's path: [shape, dtype]} of the saved arrays of a state, concrete or abstract."""
    return {name: [list(x.shape), str(x.dtype)] for name, x in named(_saved(state)).items()}


# Names in files of the parts of a state or of weights: those of the first version, so that its checkpoints are read.
FILED = {"opt_state": "opt", "ema_params": "ema", "model_state": "extra", "frozen_params": "frozen"}


# Where the embeddings of classes were in earlier checkpoints: (ends of names now, ends of names then).
EARLIER = (
    ("condition/fields/label/embedding", "condition/label/Embed_0/embedding"),
    ("tokens/label/label/embedding", "label_tokens/Embed_0/embedding"),
    ("condition_hidden/label/embedding", "class_hidden/embedding"),
    ("condition_outputs/label/embedding", "class_outputs/embedding"),
    ("condition/label/embedding", "ClassEmbedding_0/Embed_0/embedding"),
    ("condition/label/embedding", "class_bias/embedding"),
    ("condition/label/label/embedding", "prefix/embedding"),
)


def place(name: str, stored: Mapping[str, Any]) -> str:
    """The name under which an array is stored, in checkpoints of this version or an earlier one."""
    earlier = [name.removesuffix(now) + then for now, then in EARLIER if name.endswith(now)]
    return next((each for each in (name, *earlier) if each in stored), name)


def filed(parts: Mapping[str, core.Tree]) -> dict[str, core.Tree]:
    """The parts of a state or of weights under their names in files."""
    return {FILED.get(name, name): part for name, part in parts.items()}


def digest(weights: core.Weights, stored: Mapping[str, Any]) -> str:
    """The digest of weights, the same in every version: over the names of arrays in their checkpoint, `stored`."""
    arrays = named(filed(jax.device_get(weights)._asdict()))
    return files.digest_arrays({place(name, stored): array for name, array in arrays.items()})


def _saved(state: core.TrainState) -> core.Tree:
    return filed(vars(state.replace(frozen_params={})))


def _loaded(stored: Mapping[str, core.Tree], frozen_params: core.Tree) -> core.TrainState:
    state = core.TrainState(**{name: stored[FILED.get(name, name)] for name in core.TrainState.__dataclass_fields__})
    return core.attach(state, frozen_params)


def save(store: Store, state: core.TrainState, config: Mapping[str, Any], metrics: Mapping[str, float] | None) -> None:
    """Starts to write the state under its step; an earlier write that failed raises here.

    `metrics` are the held-out means at this step, or None where it was not evaluated.
    """
    about = {"config": config, "digest": configs.digest(config), "shapes": shapes(state)}
    ranked = dict(metrics) if metrics and math.isfinite(metrics.get(store.best, math.nan)) else None
    args = ocp.args.Composite(state=ocp.args.StandardSave(_saved(state)), about=ocp.args.JsonSave(about))
    store.manager.save(int(state.step), args=args, metrics=ranked, force=True)


def wait(store: Store) -> None:
    """Waits until everything saved is on disk. Raises the errors of writing in the background."""
    store.manager.wait_until_finished()


def close(store: Store) -> None:
    store.manager.wait_until_finished()
    store.manager.close()


def last_step(store: Store) -> int | None:
    return max(steps(store), default=None)


def choose(store: Store, which: str) -> int:
    """The step of `which`: 'best' (the last if none was ranked), 'last', or the number of a step."""
    available = steps(store)
    if not available:
        raise CheckpointError(f"no checkpoint in {store.directory}; train first: genimg train --workdir ...")
    if which == "last":
        return available[-1]
    if which == "best":
        best = store.manager.best_step() if store.best else None
        return best if best in available else available[-1]
    if which.isdecimal() and int(which) in available:
        return int(which)
    raise CheckpointError(
        f"no checkpoint {which} in {store.directory}; there are best, last, {', '.join(map(str, available))}."
    )


def about(store: Store, step: int) -> dict[str, Any]:
    """The configuration, digest and array shapes written beside a step's state."""
    return store.manager.restore(step, args=ocp.args.Composite(about=ocp.args.JsonRestore()))["about"]


def restore(store: Store, step: int, abstract_state: core.TrainState) -> core.TrainState:
    """The state of a step in the layout of `abstract_state`, with the arrays of its `frozen_params`.

    Raises `CheckpointError` naming the first arrays that differ in path, shape or dtype, before loading any.
    """
    on_disk, wanted = about(store, step)["shapes"], shapes(abstract_state)
    places = {name: place(name, on_disk) for name in wanted}
    stored = {**on_disk, **{name: on_disk[earlier] for name, earlier in places.items() if earlier in on_disk}}
    for earlier in set(places.values()) - set(places):
        stored.pop(earlier, None)
    wrong = [path for path in {**stored, **wanted} if stored.get(path) != wanted.get(path)]
    if wrong:
        lines = [f"  {p}: stored {stored.get(p, 'nothing')}, wanted {wanted.get(p, 'nothing')}" for p in wrong[:5]]
        raise CheckpointError(
            f"checkpoint {store.directory / str(step)} is of another model; {len(wrong)} arrays differ from the "
            f"{len(wanted)} that are wanted:\n" + "\n".join(lines)
        )
    if any(name != earlier for name, earlier in places.items()):
        arrays = restore_untyped(store, step)
        saved = jax.tree_util.tree_map_with_path(
            lambda path, x: jax.device_put(arrays[places[path_name(path)]], x.sharding), _saved(abstract_state)
        )
        return _loaded(saved, abstract_state.frozen_params)
    args = ocp.args.Composite(state=ocp.args.StandardRestore(_saved(abstract_state)))
    return _loaded(store.manager.restore(step, args=args)["state"], abstract_state.frozen_params)


def restore_untyped(store: Store, step: int) -> dict[str, jax.Array]:
    """{leaf's path, as `shapes` writes it: array} of a step, whatever model it is of."""
    args = ocp.args.StandardRestore(fallback_sharding=parallel.one_device())
    return named(store.manager.restore(step, args=ocp.args.Composite(state=args))["state"])
