"""Every test runs with strict dtypes and ranks, on four virtual CPU devices, and compiles a program once."""

import os
import tempfile

from genimg_jax.engine import runtime

os.environ["JAX_PLATFORMS"] = "cpu"
# What the tests compile runs for milliseconds: most of their time would go into making it fast.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
runtime.prepare(runtime.Options(cpu_tuning=False, host_devices=4))
COMPILED = tempfile.TemporaryDirectory(prefix="genimg-compiled-")
os.environ |= {
    "JAX_COMPILATION_CACHE_DIR": COMPILED.name,
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}

import jax  # noqa: E402, the devices are made first
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "standard")


@pytest.fixture(autouse=True, scope="module")
def _forgotten():
    """What a file compiled is let go of: thousands of programs in one process end it, out of memory maps."""
    yield
    jax.clear_caches()
