"""Optimisers by their optax names, with schedule, clipping, weight-decay mask, frozen subtrees and moving average."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import optax
import optax.contrib

from genimg_jax import averages, core
from genimg_jax.errors import ConfigError
from genimg_jax.options import bounded, choice, is_enabled, names, nearest, several

RESERVED = ("learning_rate", "mask", "muon_weight_dimension_numbers")  # arguments that are set here


@dataclass(frozen=True)
class Options:
    name: str = "adam"  # any of optax or optax.contrib that takes a learning rate
    learning_rate: float = bounded(1e-3, 0.0)
    arguments: dict = field(default_factory=dict)  # further arguments of that optimiser, such as {"b1": 0.5}
    schedule: str = choice("constant", "constant", "cosine", "linear")  # after the warm-up; the last two end at 0
    warmup_steps: int = bounded(0, 0)  # linear, from 0
    clip_norm: float = bounded(0.0, 0.0, structural=True)  # largest global norm of the gradient; 0: no clipping
    decay_mask: str = choice("kernels", "kernels", "all")  # what weight decay applies to: 'kernels' excludes vectors
    frozen: tuple[str, ...] = names()  # subtrees that are never updated: any names on the paths of parameters
    ema_half_life: float = bounded(0.0, 0.0, structural=True)  # of the averaged weights, in images; 0: no average
    ema_relative_stds: tuple[float, ...] = several((), 1e-3, 0.288, empty=True)  # widths of power-function averages


def make(
    options: Options,
    steps: int,
    batch_size: int,
    microbatches: int = 1,
    precision: str = "float32",
    average: Callable[[core.Tree], core.Tree] = lambda tree: tree,
) -> core.Optimizer:
    """The optimiser of one parameter group. Raises `ConfigError` for an unknown name or argument."""
    transform = from_optax(options, learning_rate(options, steps))
    if is_enabled(options.clip_norm):
        transform = optax.chain(optax.clip_by_global_norm(options.clip_norm), transform)
    if options.frozen:
        transform = freeze(transform, options.frozen)
    decay = 0.5 ** (batch_size / options.ema_half_life) if is_enabled(options.ema_half_life) else None
    if decay is not None and options.ema_relative_stds:
        raise ConfigError("optimizer.ema_half_life and ema_relative_stds are both given; leave one of them out.")
    exponents = tuple(averages.exponent(width) for width in options.ema_relative_stds)
    return core.Optimizer(transform, decay, microbatches, jnp.dtype(precision), average, exponents)


def from_optax(
    options: Options, rate: float | optax.Schedule, where: str = "optimizer"
) -> optax.GradientTransformation:
    """The optax optimiser with its arguments. Raises `ConfigError` for an unknown name or argument."""
    factories = {n: f for n, f in (vars(optax.contrib) | vars(optax)).items() if "learning_rate" in _parameters(f)}
    if options.name not in factories:
        raise ConfigError(f"{where}.name is {options.name!r}, which optax lacks{nearest(options.name, factories)}")
    factory = factories[options.name]
    allowed = {name: p for name, p in inspect.signature(factory).parameters.items() if name not in RESERVED}
    for argument, value in options.arguments.items():
        if argument not in allowed:
            raise ConfigError(
                f"{where}.arguments.{argument} is no argument of optax.{options.name}{nearest(argument, allowed)}"
                f" Arguments: {', '.join(allowed)}."
            )
        if isinstance(allowed[argument].default, bool) and not isinstance(value, bool):
            raise ConfigError(f"{where}.arguments.{argument} is {value!r}; it must be True or False.")
    arguments = dict(options.arguments)
    if options.decay_mask == "kernels" and "mask" in _parameters(factory):
        arguments["mask"] = lambda params: jax.tree.map(lambda x: x.ndim > 1, params)
    if "muon_weight_dimension_numbers" in _parameters(factory):
        arguments["muon_weight_dimension_numbers"] = muon_matrices
    return factory(rate, **arguments)


def freeze(transform: optax.GradientTransformation, frozen: tuple[str, ...]) -> optax.GradientTransformation:
    """The transformation of all arrays but those with a name of `frozen` on their paths, which keep their values.

    Freezing the lower layers of a trained discriminator is FreezeD (Mo et al. 2020). Frozen arrays have no optimiser
    state, and their gradients are not clipped. `init` raises `ConfigError` for a name that is on no path.
    """

    def keys(path: tuple) -> list[str]:
        return [jax.tree_util.keystr((key,), simple=True) for key in path]

    def labels(params: core.Tree) -> core.Tree:
        known = dict.fromkeys(key for path, _ in jax.tree_util.tree_leaves_with_path(params) for key in keys(path))
        for name in frozen:
            if name not in known:
                raise ConfigError(
                    f"optimizer.frozen has {name!r}, which is on the path of no parameter{nearest(name, known)} "
                    f"Names: {', '.join(known)}."
                )
        return jax.tree_util.tree_map_with_path(
            lambda path, _: "trained" if set(frozen).isdisjoint(keys(path)) else "frozen", params
        )

    return optax.partition({"trained": transform, "frozen": optax.set_to_zero()}, labels)


def muon_matrices(params: core.Tree) -> core.Tree:
    """The axes of each kernel that Muon (Jordan et al. 2024) takes as a matrix; None: the array is left to Adam.

    A kernel's last axis is its output; a convolution's window belongs to its inputs. Where blocks are stacked, along
    the first of an odd number of axes, each is a matrix.
    """

    def axes(path: tuple, x: jax.Array) -> optax.contrib.MuonDimensionNumbers | None:
        if x.ndim < 2 or getattr(path[-1], "key", None) != "kernel":
            return None
        return optax.contrib.MuonDimensionNumbers(tuple(range(x.ndim % 2, x.ndim - 1)), x.ndim - 1)

    return jax.tree_util.tree_map_with_path(axes, params)


def check(options: Options, where: str) -> None:
    """Raises `ConfigError` naming `where` if optax cannot compute an update. Uses no device."""

    def update(tree: core.Tree) -> tuple:
        transform = from_optax(options, options.learning_rate, where)
        return transform.update(tree, transform.init(tree), tree)

    try:
        jax.eval_shape(update, {"w": jax.ShapeDtypeStruct((2, 2), jnp.float32)})
    except ConfigError:
        raise
    except Exception as error:  # of any type: optax does not check its arguments
        why = " ".join(str(error).split())
        raise ConfigError(f"{where}: optax.{options.name} cannot work with {options.arguments}: {why}") from error


def learning_rate(options: Options, steps: int) -> optax.Schedule:
    """Step -> learning rate: a linear warm-up, then constant, half a cosine down to 0 at `steps`, or constant for the
    first half and linear down to 0 at `steps` in the second (Zhu et al. 2017, section 4)."""
    rest = max(steps - options.warmup_steps, 1)
    if options.schedule == "cosine":
        after = optax.cosine_decay_schedule(options.learning_rate, rest)
    elif options.schedule == "linear":
        after = optax.linear_schedule(options.learning_rate, 0.0, rest - rest // 2, transition_begin=rest // 2)
    else:
        after = optax.constant_schedule(options.learning_rate)
    warmup = optax.linear_schedule(0.0, options.learning_rate, options.warmup_steps)
    return optax.join_schedules([warmup, after], [options.warmup_steps]) if options.warmup_steps else after


def _parameters(value: Any) -> list[str]:
    return list(inspect.signature(value).parameters) if inspect.isfunction(value) else []
