"""Every test runs with strict dtypes and ranks, on four virtual CPU devices."""

import os

from genimg_jax.engine import runtime

os.environ["JAX_PLATFORMS"] = "cpu"
# What the tests compile runs for milliseconds: most of their time would go into making it fast.
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_backend_optimization_level=0"
runtime.prepare(runtime.Options(cpu_tuning=False, host_devices=4))

import jax  # noqa: E402, the devices are made first
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "standard")


@pytest.fixture(autouse=True, scope="module")
def _forgotten():
    """What a file compiled is let go of: thousands of programs in one process end it, out of memory maps."""
    yield
    jax.clear_caches()
