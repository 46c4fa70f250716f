"""Every test runs with strict dtypes and ranks, on four virtual CPU devices."""

import os

from genimg_jax.engine import runtime

os.environ["JAX_PLATFORMS"] = "cpu"
runtime.prepare(runtime.Options(cpu_tuning=False, host_devices=4))

import jax  # noqa: E402, the devices are made first

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "standard")
