"""Shardings of arrays, and compilation of functions: the only importer of `jax.sharding`.

A mesh has the axes `data` and `fsdp`; a batch is split over both, and with `fsdp` > 1 each large array of the state
is split over its largest divisible axis (fully sharded data parallelism, Rajbhandari et al. 2020, by GSPMD).
"""

from collections.abc import Callable
from dataclasses import dataclass

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec, SingleDeviceSharding

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.options import bounded, choice


@dataclass(frozen=True)
class Options:
    devices: int = bounded(0, 0)  # number of devices to use; 0: all
    fsdp: int = bounded(1, 1)  # devices over which the state is split; the rest replicate it
    fsdp_min_size: int = bounded(65536, 1)  # arrays with fewer elements are replicated
    compile: str = choice("jit", "jit", "pmap")  # pmap: one replica per device, with batch statistics per device
    distributed: bool = False  # join other processes (Slurm, MPI and TPU pods are detected)


def init_distributed(options: Options) -> None:
    """Connects to the other processes, if `distributed` and not yet done."""
    if options.distributed and not jax.distributed.is_initialized():
        jax.distributed.initialize()


def any_process(condition: bool) -> bool:
    """Whether the condition holds in any process; all processes must call this at the same step."""
    if jax.process_count() == 1:
        return condition
    return bool(multihost_utils.process_allgather(np.asarray(condition)).any())


def _devices(options: Options) -> list[jax.Device]:
    init_distributed(options)
    devices = jax.devices()
    count = options.devices or len(devices)
    if count > len(devices):
        raise ConfigError(f"parallel.devices is {count}, but there are {len(devices)} ({devices[0].platform}).")
    return devices[:count]


def make_mesh(options: Options) -> Mesh:
    """The devices as [data, fsdp]. Raises `ConfigError` if `fsdp` does not divide them."""
    devices = _devices(options)
    count = len(devices)
    if count % options.fsdp:
        raise ConfigError(f"parallel.fsdp is {options.fsdp}, which does not divide the {count} devices.")
    if options.compile == "pmap" and (options.fsdp > 1 or jax.process_count() > 1):
        raise ConfigError(
            "parallel.compile is 'pmap', which replicates the state over the devices of one process; "
            "set parallel.fsdp to 1 and start one process, or use 'jit'."
        )
    return Mesh(np.array(devices).reshape(-1, options.fsdp), ("data", "fsdp"))


def make_run_mesh(options: Options, runs: int) -> Mesh:
    """The devices as [run]: each trains whole runs, and as few devices are used as give the same number per device."""
    devices = _devices(options)
    runs_per_device = -(-runs // len(devices))
    return Mesh(np.array(devices[: -(-runs // runs_per_device)]), ("run",))


def check_batch(mesh: Mesh, batch_size: int, what: str) -> None:
    """Raises `ConfigError` unless every device gets the same whole number of images."""
    if batch_size % mesh.size:
        raise ConfigError(
            f"{what} is {batch_size}, which {mesh.size} devices cannot share; use a multiple of {mesh.size}."
        )


def round_up(mesh: Mesh, batch_size: int) -> int:
    """The next batch size that the devices divide; for computations that do not depend on it."""
    return -(-batch_size // mesh.size) * mesh.size


def local_rows(batch_size: int) -> slice:
    """The rows of a global batch that this process provides."""
    share = batch_size // jax.process_count()
    return slice(jax.process_index() * share, (jax.process_index() + 1) * share)


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Splits the first axis, a batch or runs, over all devices."""
    return NamedSharding(mesh, PartitionSpec(mesh.axis_names))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, PartitionSpec())


def one_device() -> SingleDeviceSharding:
    """For arrays whose shardings are over devices that are not available."""
    return SingleDeviceSharding(jax.local_devices()[0])


def put_batch(batch: core.Tree, mesh: Mesh) -> core.Tree:
    """This process's rows of a batch, as one global array per entry."""
    if mesh.size == 1:
        return batch  # the compiled call moves it to the device, at a tenth of the host time of `device_put`
    sharding = batch_sharding(mesh)
    if jax.process_count() == 1:
        return jax.device_put(batch, sharding)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def put_examples(batch: core.Tree, mesh: Mesh) -> core.Tree:
    """Examples to evaluate or to sample: split over the devices, or replicated if the devices have different runs."""
    if mesh.axis_names == ("run",):
        return batch if mesh.size == 1 else jax.device_put(batch, replicated(mesh))
    return put_batch(batch, mesh)


def state_shardings(state: core.Tree, mesh: Mesh, options: Options) -> core.Tree:
    """A sharding for each array: its largest axis that `fsdp` divides, if it has at least `fsdp_min_size` elements."""

    def rule(x: jax.ShapeDtypeStruct) -> NamedSharding:
        axes = [i for i in np.argsort(x.shape)[::-1] if x.shape[i] % options.fsdp == 0]
        if options.fsdp == 1 or not axes or x.size < options.fsdp_min_size:
            return replicated(mesh)
        return NamedSharding(mesh, PartitionSpec(*(None,) * axes[0], "fsdp"))

    return jax.tree.map(rule, state)


def abstract(state: core.Tree, mesh: Mesh, options: Options) -> core.Tree:
    """Shapes, dtypes and shardings of a state, for compiling and for restoring into."""
    shardings = state_shardings(state, mesh, options)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), state, shardings)


def put(tree: core.Tree, mesh: Mesh, options: Options) -> core.Tree:
    """Arrays with the shardings of a state."""
    return jax.device_put(tree, state_shardings(tree, mesh, options))


def compile_init(init: Callable, abstract_state: core.Tree) -> Callable:
    """Compiles `init`, whose result has the shardings of `abstract_state`."""
    return jax.jit(init, out_shardings=jax.tree.map(lambda x: x.sharding, abstract_state))


def compile_step(step: Callable, abstract_state: core.Tree, mesh: Mesh, options: Options) -> Callable:
    """Compiles (state, batch, seed) -> (state, metrics). The state is donated; batches come from `put_batch`."""
    if options.compile == "pmap":
        mapped = jax.pmap(step, "data", in_axes=(None, 0, None), out_axes=None, devices=list(mesh.devices.flat))
        split = lambda x: x.reshape(mesh.size, -1, *x.shape[1:])  # noqa: E731
        return lambda state, batch, seed: mapped(state, jax.tree.map(split, batch), seed)
    shardings = jax.tree.map(lambda x: x.sharding, abstract_state)
    everywhere = replicated(mesh)
    return jax.jit(
        step,
        donate_argnums=0,
        in_shardings=(shardings, batch_sharding(mesh), everywhere),
        out_shardings=(shardings, everywhere),
    )


def compile_per_example(function: Callable, mesh: Mesh, static: int | None = None) -> Callable:
    """Compiles a function whose results [B, ...] are replicated; `static` is a compile-time argument."""
    return jax.jit(function, static_argnums=static, out_shardings=replicated(mesh))


def compile_runs(function: Callable, mesh: Mesh, axes: tuple[int | None, ...], donate: bool = False) -> Callable:
    """Compiles a function of one run for all runs of `make_run_mesh`, without communication between them.

    `axes` has 0 for each argument that is stacked over runs, and None for one that is the same for all; results are
    stacked. With `donate` the first argument is donated.
    """
    mapped = jax.shard_map(
        jax.vmap(function, axes),
        mesh=mesh,
        in_specs=tuple(PartitionSpec() if axis is None else PartitionSpec("run") for axis in axes),
        out_specs=PartitionSpec("run"),
        check_vma=False,
    )
    return jax.jit(mapped, donate_argnums=0 if donate else ())


def average_over(options: Options) -> Callable[[core.Tree], core.Tree]:
    """`core.Optimizer.average`: a mean over mapped devices, or the identity under jit, whose means are global."""
    if options.compile == "pmap":
        return lambda tree: jax.tree.map(lambda x: jax.lax.pmean(x, "data"), tree)
    return lambda tree: tree
