"""What some tests need beyond the extra `test`: without it they are skipped, or fail where GENIMG_REQUIRE_ALL is 1."""

import collections
import importlib
import os
from collections.abc import Iterable
from types import ModuleType
from typing import NoReturn

import pytest

PREFIX = "needs "
NAMES = {
    "torch": "PyTorch",
    "skimage": "scikit-image",
    "pytorch_fid": "pytorch-fid",
    "torch_fidelity": "torch-fidelity",
    "submitit": "Slurm",
}


def missing(what: str, why: str) -> NoReturn:
    reason = f"{PREFIX}{what}: {why}"
    if os.environ.get("GENIMG_REQUIRE_ALL") == "1":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason, allow_module_level=True)


def module(name: str) -> ModuleType:
    """The imported module, one of the packages of `NAMES`."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing(NAMES[name.partition(".")[0]], str(error))


def summary(reasons: Iterable[str]) -> str:
    """One line about skipped tests, or whole files of them, from the reasons that pytest reports; '' for none."""
    reasons = [reason.removeprefix("Skipped: ") for reason in reasons]
    wanted = collections.Counter(r.removeprefix(PREFIX).partition(":")[0] for r in reasons if r.startswith(PREFIX))
    parts = [f"{count} need {what}" for what, count in wanted.most_common()]
    others = len(reasons) - wanted.total()
    said = [f"left out (tests, or files of them): {', '.join(parts)}; .ci/run installs these"] if parts else []
    return "; ".join([*said, *([f"{others} skipped for other reasons, which pytest -rs gives"] if others else [])])
