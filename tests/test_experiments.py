"""What the files of experiments/ name is there, and they open runs of earlier versions as everything else does."""

import ast
import re

from tiny_runs import ROOT

from genimg_jax.engine import config_files

FILES = sorted((ROOT / "experiments").rglob("*.py"))


def strings(code: str) -> set[str]:
    return {node.value for node in ast.walk(ast.parse(code)) if isinstance(getattr(node, "value", None), str)}


def test_configurations_are_there_with_their_variants():
    named = {text for file in FILES for text in strings(file.read_text()) if re.fullmatch(r"configs/\w+\.py\S*", text)}
    assert "configs/vae_digits.py" in named
    for name in named:
        config_files.load(str(ROOT / name))


def test_configurations_of_runs_are_read_by_the_engine():
    """Which knows what their options were called before."""
    assert not [file.name for file in FILES if "config.json" in strings(file.read_text())]
