"""Configurations from files: Python with `get_config(variant)`, which returns `engine.config.experiment(...)`, and the
records of runs."""

import ast
import importlib.util
import pathlib
import re
import traceback
from typing import Any

from ml_collections import ConfigDict

from genimg_jax.engine import run
from genimg_jax.engine.old_configs import complete
from genimg_jax.errors import ConfigError
from genimg_jax.options import absolute


def load(path: str) -> ConfigDict:
    """The configuration of `file.py` or `file.py:variant`. Raises `ConfigError` naming file and line."""
    config = call(path, "get_config")
    if not isinstance(config, ConfigDict):
        raise ConfigError(f"{path}: get_config returned {type(config).__name__}; return `experiment(...)`.")
    return config


def of_run(workdir: pathlib.Path) -> dict[str, Any]:
    """The configuration of a run, as JSON, complete. Raises `ConfigError` if `workdir` is no run directory."""
    return complete(run.read_json(workdir, "config.json"))


CALLING: list[pathlib.Path] = []  # files whose functions are being called, the innermost last


def call(path: str, function: str) -> Any:
    """Calls a function of `file.py` with the variant of `file.py:variant`, and returns its result.

    Raises `ConfigError` naming file and line for any error there.
    """
    name, _, variant = path.rpartition(":") if ":" in path and not _find(path).is_file() else (path, "", "")
    file = _find(name)
    if not file.is_file():
        near = ", ".join(sorted(str(p) for p in file.parent.glob("*.py"))) or "none there"
        raise ConfigError(f"no config file {name}; config files beside it: {near}.")
    source = file.read_text()
    CALLING.append(file)
    try:
        _refuse_duplicates(file, ast.parse(source))
        spec = importlib.util.spec_from_file_location("experiment_config", file)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return getattr(module, function)(*([variant] if variant else []))
    except ConfigError as error:
        raise ConfigError(f"{file}:{_line(file, source, error)}: {error}") from error
    except Exception as error:
        line = getattr(error, "lineno", None) or _line(file, source, error)
        raise ConfigError(f"{file}:{line}: {type(error).__name__}: {error}") from error
    finally:
        CALLING.pop()


def _find(name: str) -> pathlib.Path:
    """The path relative to the working directory, or else to a folder above the configuration file that loads it."""
    places = [pathlib.Path(absolute(name)), *(folder / name for folder in (CALLING[-1].parents if CALLING else ()))]
    return next((place for place in places if place.is_file()), places[0])


def _line(file: pathlib.Path, source: str, error: Exception) -> int:
    """The line of an error in the file: the first with its key, else the line that led to the error."""
    frames = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    key = re.match(r"config\.(?:\w+\.)*(\w+)", str(error))
    written = [i for i, text in enumerate(source.split("\n"), 1) if key and re.search(rf"\b{key[1]}\b", text)]
    return (written or frames or [1])[0]


def _refuse_duplicates(file: pathlib.Path, tree: ast.AST) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.Dict):
            previous = set()
            for key in (k for k in node.keys if isinstance(k, ast.Constant)):
                if key.value in previous:
                    error = SyntaxError(f"the key {key.value!r} is given twice")
                    error.lineno = key.lineno
                    raise error
                previous.add(key.value)
