"""Settings of the process that must be made before JAX starts its backend; they change speed, not mathematics.

Importing JAX does not start it, the first use of a device does. Everything here concerns the CPU backend alone and is
left out where an accelerator may be in use.
"""

import ctypes
import importlib.metadata
import importlib.util
import os
import platform
from dataclasses import dataclass

from genimg_jax.options import bounded

CONVOLUTIONS = "xla_cpu_experimental_ynn_fusion_type"
DISABLED_PASSES = "xla_disable_hlo_passes"
DEVICES = "xla_force_host_platform_device_count"
PATIENCE = "xla_cpu_collective_call_terminate_timeout_seconds"
# An unknown flag in XLA_FLAGS ends the process, so a release is named here once it has been seen to know ours.
KNOWN_RELEASES = ("0.10.2", "0.11.2")


@dataclass(frozen=True)
class Options:
    cpu_tuning: bool = True  # convolutions on every core, and memory kept between steps (CPU only)
    host_devices: int = bounded(1, 1)  # devices that the CPU is shown as; a batch is split over them


def prepare(options: Options) -> str:
    """Apply the options to this process and say in one line what was done.

    Flags that XLA_FLAGS already holds are kept as they are. Without effect once JAX has used a device.
    """
    if not cpu_only():
        return "runtime: an accelerator may be present, nothing changed"
    done = []
    release = importlib.metadata.version("jaxlib")
    if options.host_devices > 1:
        done.append(_flag(DEVICES, str(options.host_devices), f"{options.host_devices} host devices"))
        # Devices wait for each other in threads of one pool: with no more threads than devices, those that wait may
        # hold all that there are. And XLA ends a process whose devices wait 40 s, as they may on a busy machine.
        os.environ.setdefault("PJRT_NPROC", str(max(2 * options.host_devices, os.cpu_count() or 1)))
        if release in KNOWN_RELEASES:
            _flag(PATIENCE, "3600", "")
    if options.cpu_tuning:
        if release in KNOWN_RELEASES:
            # Without this, convolutions become fusions that run on one core.
            done.append(_flag(CONVOLUTIONS, "-individual_convolution", "convolutions on every core"))
            # This pass drops `optimization_barrier` before fusion: the gradient of a chain of residual blocks is then
            # computed again, from its end, for each of its uses.
            done.append(_flag(DISABLED_PASSES, "cse_barrier_expander", "barriers kept"))
        else:
            done.append(f"convolutions as jaxlib {release} runs them")
        if _keep_memory():
            done.append("freed memory kept for the next step")
    return f"runtime: {', '.join(done) or 'nothing changed'}"


def cpu_only() -> bool:
    named = os.environ.get("JAX_PLATFORMS", "")
    if named:
        return named == "cpu"
    plugins = importlib.metadata.entry_points(group="jax_plugins")
    return not plugins and importlib.util.find_spec("libtpu") is None


def _flag(name: str, value: str, meaning: str) -> str:
    flags = os.environ.get("XLA_FLAGS", "")
    if f"--{name}=" in flags:
        return f"{name} as in XLA_FLAGS"
    os.environ["XLA_FLAGS"] = f"{flags} --{name}={value}".strip()
    return meaning


def _keep_memory() -> bool:
    """Have glibc reuse the large buffers of a step: mapping and returning them each time costs page faults."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    arena_max, mmap_threshold, trim_threshold = -8, -3, -1  # malloc.h
    changes = ((arena_max, 1), (mmap_threshold, 2**30), (trim_threshold, 2**31 - 1))
    return all(mallopt(parameter, value) for parameter, value in changes)
