"""Compiled programs that are read back give the bits of those that were compiled; a broken cache stops nothing."""

import contract
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_contract
from jax.experimental.compilation_cache import compilation_cache


@pytest.fixture
def cached_in():
    """Has JAX, as if it had just started, keep compiled programs in a folder, and counts those that it reads back."""
    names = [f"jax_{name}" for name in ("compilation_cache_dir", "persistent_cache_min_compile_time_secs")]
    before, read = [getattr(jax.config, name) for name in names], []

    def use(folder, seconds=0.0):
        for name, value in zip(names, (folder, seconds), strict=True):
            jax.config.update(name, value)
        compilation_cache.reset_cache()
        contract.compiled.cache_clear()
        jax.clear_caches()
        read.clear()
        return read

    def count(event, **_):
        read.extend([event] if event == "/jax/compilation_cache/cache_hits" else [])

    jax.monitoring.register_event_listener(count)
    yield use
    jax.monitoring.unregister_event_listener(count)
    use(*before)


def test_programs_that_are_read_back_resume_to_the_same_bits(cached_in, tmp_path):
    case = test_contract.case("vae")
    cached_in(str(tmp_path))
    whole, half = contract.train(case, 4)[0], contract.train(case, 2)[0]
    read = cached_in(str(tmp_path))
    resumed, _ = contract.train(case, 2, state=half)
    assert "jit_step" in " ".join(path.name for path in tmp_path.iterdir()) and len(read) > 2
    contract.identical(whole, resumed)


def test_a_broken_cache_stops_nothing(cached_in, tmp_path):
    """Entries that were cut short, are empty, or hold something else, are compiled anew."""

    def values():
        return [np.asarray(jax.jit(f)(jnp.arange(5.0))) for f in (jnp.sin, jnp.cumsum, lambda x: x @ x)]

    cached_in(str(tmp_path))
    before = values()
    entries = sorted(path for path in tmp_path.iterdir() if path.name.endswith("-cache"))
    assert len(entries) > 2
    for i, entry in enumerate(entries):
        content = entry.read_bytes()
        entry.write_bytes((content[: len(content) // 2], b"", b"something else")[i % 3])
    read = cached_in(str(tmp_path))
    with pytest.warns(UserWarning, match="persistent compilation cache entry"):
        np.testing.assert_equal(values(), before)
    assert not read
