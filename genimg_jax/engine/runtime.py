"""Runtime options of the process, which must be set before JAX starts its backend; they change only speed.

Importing JAX does not start its backend; the first use of a device does. All options except the compilation cache are
for the CPU backend, and are not applied if an accelerator may be in use.
"""

import contextlib
import ctypes
import importlib.metadata
import importlib.util
import os
import pathlib
import platform
import sys
import tempfile
from dataclasses import dataclass

from genimg_jax import files
from genimg_jax.options import bounded, location

CONVOLUTIONS = "xla_cpu_experimental_ynn_fusion_type"
DISABLED_PASSES = "xla_disable_hlo_passes"
DEVICES = "xla_force_host_platform_device_count"
PATIENCE = "xla_cpu_collective_call_terminate_timeout_seconds"
# An unknown flag in XLA_FLAGS ends the process: only for these releases of jaxlib have the flags been tested.
KNOWN_RELEASES = ("0.10.2", "0.11.2")
CACHE_BYTES = 4 * 2**30  # largest total size of the user's compilation caches


@dataclass(frozen=True)
class Options:
    cpu_tuning: bool = True  # convolutions on every core, and memory kept between steps (CPU only)
    host_devices: int = bounded(1, 1)  # virtual devices of the CPU; a batch is split over them
    # Folder of compiled programs; "": one in the user's cache folder, "off": none.
    compilation_cache: str = location("off")


def prepare(options: Options) -> str:
    """Applies the options to this process and returns a line that describes them.

    Flags that are already in XLA_FLAGS are not changed, nor is a folder in JAX_COMPILATION_CACHE_DIR.
    Has no effect after JAX has used a device.
    """
    done = _tune(options) if cpu_only() else ["an accelerator may be present, nothing tuned"]
    done.append(_cache_programs(options.compilation_cache))
    return f"runtime: {', '.join(done)}"


def _tune(options: Options) -> list[str]:
    done = []
    release = importlib.metadata.version("jaxlib")
    if options.host_devices > 1:
        done.append(_flag(DEVICES, str(options.host_devices), f"{options.host_devices} host devices"))
        # Devices wait for each other in threads of one pool: with at most as many threads as devices, waiting ones can
        # occupy all threads. And XLA ends a process whose devices wait 40 s, as they may on a busy machine.
        os.environ.setdefault("PJRT_NPROC", str(max(2 * options.host_devices, os.cpu_count() or 1)))
        if release in KNOWN_RELEASES:
            _flag(PATIENCE, "3600", "")
    if options.cpu_tuning:
        if release in KNOWN_RELEASES:
            # Without this, convolutions become fusions that run on one core.
            done.append(_flag(CONVOLUTIONS, "-individual_convolution", "convolutions on every core"))
            # This pass removes `optimization_barrier` before fusion: the gradient of a chain of residual blocks would
            # be recomputed, from its end, for each of its uses.
            done.append(_flag(DISABLED_PASSES, "cse_barrier_expander", "barriers kept"))
        else:
            done.append(f"convolutions as jaxlib {release} runs them")
        if _keep_memory():
            done.append("freed memory kept for the next step")
    return done


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
    """Makes glibc reuse the large buffers of a step: mapping and unmapping them each time costs page faults."""
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    arena_max, mmap_threshold, trim_threshold = -8, -3, -1  # malloc.h
    changes = ((arena_max, 1), (mmap_threshold, 2**30), (trim_threshold, 2**31 - 1))
    return all(mallopt(parameter, value) for parameter, value in changes)


def user_cache() -> pathlib.Path:
    """The cache folder: `genimg_jax` in `$XDG_CACHE_HOME`, or in `~/.cache`."""
    return pathlib.Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "genimg_jax"


def _cache_programs(folder: str) -> str:
    """Sets JAX's persistent compilation cache, for this process and those that it starts.

    JAX warns about an entry that it cannot read or write, and compiles.
    """
    if folder == "off":
        _set("jax_enable_compilation_cache", False)
        return "compiled programs not kept"
    named = os.environ.get("JAX_COMPILATION_CACHE_DIR", "")
    # A folder of ours is from the parent process, which may have other cores.
    if named and not folder and pathlib.Path(named).parent != user_cache() / "xla":
        return f"compiled programs in {named}"
    path = pathlib.Path(folder) if folder else user_cache() / "xla" / _compiler()
    try:
        path.mkdir(parents=True, exist_ok=True, mode=0o700)  # JAX runs what it finds there
        tempfile.TemporaryFile(dir=path).close()
        if not folder:
            _shrink(path.parent)
    except OSError as error:
        return f"compiled programs not kept ({path}: {error.strerror})"
    _set("jax_compilation_cache_dir", str(path))
    # Most programs of a run compile in less than JAX's default of a second, and there are dozens of them.
    _set("jax_persistent_cache_min_compile_time_secs", 0)
    _set("jax_persistent_cache_min_entry_size_bytes", -1)
    return f"compiled programs in {path}"


def _compiler() -> str:
    """A digest of the inputs of compilation: XLA's flags and release, the processor, and the number of cores."""
    try:
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        processor = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        processor = platform.processor()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    flags = sorted(os.environ.get("XLA_FLAGS", "").split())
    release = importlib.metadata.version("jaxlib")
    parts = (flags, release, platform.machine(), processor, cores, os.environ.get("PJRT_NPROC"))
    return files.digest(repr(parts))


def _shrink(folder: pathlib.Path) -> None:
    """Removes the least recently read entries until at most `CACHE_BYTES` are left."""
    with contextlib.suppress(OSError):  # another process may be removing the same
        entries = [(file.stat(), file) for file in folder.rglob("*") if file.is_file()]
        size = sum(stat.st_size for stat, _ in entries)
        for stat, file in sorted(entries, key=lambda entry: entry[0].st_atime):
            if size <= CACHE_BYTES:
                return
            file.unlink()
            size -= stat.st_size


def _set(name: str, value: str | int | bool) -> None:
    """Sets a JAX option, in the environment and, if JAX is already imported, in its configuration."""
    os.environ[name.upper()] = str(value)
    if "jax" in sys.modules:
        sys.modules["jax"].config.update(name, value)
