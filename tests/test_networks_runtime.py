"""Process settings: what is asked for reaches XLA, what the user set is kept, and compiled programs are read back."""

import os
import pathlib
import subprocess
import sys

import pytest

from genimg_jax.engine import runtime
from genimg_jax.engine.runtime import Options, prepare


@pytest.fixture(autouse=True)
def environment(monkeypatch):
    monkeypatch.setenv("JAX_PLATFORMS", "cpu")
    monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_min_max=false")
    monkeypatch.setenv("PJRT_NPROC", "1")  # so that it is put back
    monkeypatch.delenv("PJRT_NPROC")
    monkeypatch.setattr(runtime, "_keep_memory", lambda: False)  # the tests' own process stays as it is
    return monkeypatch


@pytest.fixture
def settings(environment, tmp_path):
    """What JAX is told; its folder is to be below `tmp_path`."""
    told = {}
    environment.setattr(runtime, "_set", told.__setitem__)
    environment.setenv("XDG_CACHE_HOME", str(tmp_path))
    environment.delenv("JAX_COMPILATION_CACHE_DIR", raising=False)
    return told


def test_flags_are_added_to_those_there():
    said = prepare(Options(cpu_tuning=True, host_devices=3))
    flags = os.environ["XLA_FLAGS"].split()
    assert flags[0] == "--xla_cpu_enable_fast_min_max=false"
    assert "--xla_force_host_platform_device_count=3" in flags
    assert "--xla_cpu_collective_call_terminate_timeout_seconds=3600" in flags
    assert int(os.environ["PJRT_NPROC"]) >= 6
    assert said.startswith("runtime: 3 host devices, convolutions")
    prepare(Options(cpu_tuning=True, host_devices=2))
    assert os.environ["XLA_FLAGS"].split() == flags


def test_nothing_asked_for_changes_nothing(settings):
    assert prepare(Options(cpu_tuning=False, compilation_cache="off")) == "runtime: compiled programs not kept"
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_min_max=false"


def test_a_flag_that_a_release_may_not_know_is_left_out(environment):
    environment.setattr(runtime.importlib.metadata, "version", lambda name: "0.11.0")
    assert prepare(Options()).startswith("runtime: convolutions as jaxlib 0.11.0 runs them, compiled programs")
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_min_max=false"


@pytest.mark.parametrize("platforms", ["cuda", "tpu,cpu", "cpu,cuda"])
def test_accelerators_are_left_alone(environment, platforms):
    environment.setenv("JAX_PLATFORMS", platforms)
    assert "accelerator" in prepare(Options(host_devices=2))
    assert os.environ["XLA_FLAGS"] == "--xla_cpu_enable_fast_min_max=false"


def test_an_accelerator_plugin_counts_as_one(environment):
    environment.delenv("JAX_PLATFORMS")
    environment.setattr(runtime.importlib.metadata, "entry_points", lambda group: [group])
    assert "accelerator" in prepare(Options())


def test_the_installed_xla_accepts_the_flags():
    program = """
import sys
from genimg_jax.engine.runtime import Options, prepare
print(prepare(Options(cpu_tuning=True, host_devices=2)))
assert "jax" not in sys.modules
import jax
barrier = jax.jit(lambda x: jax.lax.optimization_barrier(x + 1)).lower(1.0).compile().as_text()
print("kept" if "opt-barrier" in barrier else "dropped")
print(len(jax.devices()), float(jax.lax.conv(*2 * [jax.numpy.ones((1, 1, 3, 3))], (1, 1), "VALID").sum()))
"""
    environment = {**os.environ, "XLA_FLAGS": ""}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split()[-3:] == ["kept", "2", "9.0"]


# ----------------------------------------------------------------------------------------- the compilation cache


def folder_of(settings):
    return pathlib.Path(settings["jax_compilation_cache_dir"])


def test_compiled_programs_are_kept_apart_by_compiler(settings, environment, tmp_path):
    said = prepare(Options(cpu_tuning=False))
    first = folder_of(settings)
    assert first.parent == tmp_path / "genimg_jax" / "xla" and str(first) in said
    assert first.stat().st_mode & 0o777 == 0o700
    environment.setenv("XLA_FLAGS", "--xla_backend_optimization_level=0")
    prepare(Options(cpu_tuning=False))
    other = folder_of(settings)
    environment.setattr(runtime.importlib.metadata, "version", lambda name: "0.11.0")
    prepare(Options(cpu_tuning=False))
    assert len({first, other, folder_of(settings)}) == 3


def test_a_cache_of_the_users_choice(settings, environment, tmp_path):
    prepare(Options(cpu_tuning=False, compilation_cache=str(tmp_path / "mine")))
    assert folder_of(settings) == tmp_path / "mine"
    settings.clear()
    environment.setenv("JAX_COMPILATION_CACHE_DIR", "/theirs")
    assert "compiled programs in /theirs" in prepare(Options(cpu_tuning=False)) and not settings
    assert "not kept" in prepare(Options(cpu_tuning=False, compilation_cache="off"))
    assert settings == {"jax_enable_compilation_cache": False}


def test_a_cache_that_cannot_be_written_is_left_out(settings, tmp_path):
    (tmp_path / "genimg_jax").write_text("no folder")
    assert f"compiled programs not kept ({tmp_path}" in prepare(Options(cpu_tuning=False)) and not settings


def test_what_was_not_read_for_longest_leaves_a_full_cache(settings, environment):
    prepare(Options(cpu_tuning=False))
    entries = [folder_of(settings) / name for name in "abc"]
    for age, entry in enumerate(entries):
        entry.write_bytes(bytes(100))
        os.utime(entry, (1e9 - age, 1e9))
    environment.setattr(runtime, "CACHE_BYTES", 250)
    prepare(Options(cpu_tuning=False))
    assert [entry.exists() for entry in entries] == [True, True, False]
