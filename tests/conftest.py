"""Every test runs with strict dtypes and ranks, on four virtual CPU devices, and compiles a program once.

What one worker compiled the others read back, and so do later runs: see `runtime.Options.compilation_cache`.
"""

import importlib.metadata
import os

from genimg_jax.engine import runtime

os.environ["JAX_PLATFORMS"] = "cpu"
# What the tests compile runs for milliseconds: most of their time would go into making it fast.
FLAGS = ["--xla_backend_optimization_level=0"]
if importlib.metadata.version("jaxlib") == "0.10.2":  # others may not know it, and would end the process
    FLAGS.append("--xla_cpu_use_fusion_emitters=false")
os.environ["XLA_FLAGS"] = " ".join([os.environ.get("XLA_FLAGS", ""), *FLAGS])
runtime.prepare(runtime.Options(cpu_tuning=False, host_devices=4))
XLA_FLAGS = os.environ["XLA_FLAGS"]

import jax  # noqa: E402, the devices are made first
import needs  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "standard")


@pytest.fixture(autouse=True, scope="module")
def _forgotten():
    """What a file compiled is let go of: thousands of programs in one process end it, out of memory maps."""
    yield
    jax.clear_caches()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Takes back the flags that commands add in this process: a compiled program is read back under equal flags."""
    os.environ["XLA_FLAGS"] = XLA_FLAGS


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Workers share out files, whose fixtures are made once, and the contract's families."""
    for item in items:
        family = getattr(item, "callspec", None) and item.callspec.params.get("made", "")
        item.add_marker(pytest.mark.xdist_group(f"{item.path.stem} {family}" if family else item.path.stem))


def pytest_unconfigure(config: pytest.Config) -> None:
    """The last line of a run says what was left out."""
    reporter = config.pluginmanager.get_plugin("terminalreporter")
    skipped = {report.nodeid: report.longrepr[2] for report in reporter.stats.get("skipped", [])} if reporter else {}
    if line := needs.summary(skipped.values()):
        print(line)
