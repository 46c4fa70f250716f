"""Options are frozen dataclasses: fields with bounds, and checks of a mapping against them.

A float field may hold a traced array when a family is built inside a transformation, so that a sweep over it is one
program. `static=True` marks float fields that shape the program and cannot be traced; `structural=True` marks those
that shape it only by being 0.
`inference_only=True` marks options that training does not read: a run can be sampled and evaluated with other values.
"""

import dataclasses
import difflib
import math
import os
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from genimg_jax.errors import ConfigError


def choice(default: Any, *choices: Any, inference_only: bool = False) -> Any:
    """A field with a closed set of values."""
    return dataclasses.field(default=default, metadata={"choices": choices, "inference_only": inference_only})


def bounded(
    default: float,
    low: float,
    high: float = math.inf,
    static: bool = False,
    structural: bool = False,
    inference_only: bool = False,
) -> Any:
    """A number within [low, high]."""
    marks = {"static": static, "structural": structural, "inference_only": inference_only}
    return dataclasses.field(default=default, metadata={"low": low, "high": high, **marks})


def several(default: tuple, low: float, high: float = math.inf, empty: bool = False) -> Any:
    """A tuple of numbers, each within [low, high], and at least one of them unless it may be `empty`."""
    return dataclasses.field(default=default, metadata={"low": low, "high": high, "empty": empty})


def names(*default: str) -> Any:
    """A tuple of names, which may be empty if it is by default."""
    return dataclasses.field(default=default, metadata={"empty": not default, "names": True})


def leaves(kind: type, prefix: str = "") -> dict[str, dataclasses.Field]:
    """Every option by its flat key, those of sections included, such as `shapes.count`."""
    flat = {}
    for field in dataclasses.fields(kind):
        inner = field.default_factory
        nested = dataclasses.is_dataclass(inner)
        flat |= leaves(inner, f"{prefix}{field.name}.") if nested else {prefix + field.name: field}
    return flat


def location(*words: str) -> Any:
    """A path, made absolute by `parse`, or one of the `words`; "": none."""
    return dataclasses.field(default="", metadata={"path": True, "words": words})


def absolute_location(field: dataclasses.Field, value: str) -> str:
    """The value of a `location` as it is recorded."""
    return value if value in field.metadata["words"] else absolute(value)


def absolute(path: str | os.PathLike) -> str:
    """The absolute path that records hold, with `~` expanded. "" and addresses such as gs://bucket stay as they are."""
    text = os.path.expanduser(path)
    return os.path.abspath(text) if text and "://" not in text else text


def is_enabled(value: Any) -> bool:
    """Whether the value of a `structural` field is not 0; a traced value never is 0."""
    return not isinstance(value, (int, float)) or value != 0


def inference_only(kind: type) -> list[str]:
    """The fields that training does not read."""
    return [field.name for field in dataclasses.fields(kind) if field.metadata.get("inference_only")]


def nearest(name: Any, names: Iterable[Any], count: int = 1) -> str:
    """The end of a sentence about an unknown name: `; did you mean 'x' or 'y'?`, with at most `count` names, or a full
    stop. Of flat keys such as `train.steps`, those with the same last part come first."""
    name, names = str(name), [str(n) for n in names]
    last = name.rpartition(".")[2]
    near = [n for n in names if last.isidentifier() and n.endswith(f".{last}")]
    near = near or difflib.get_close_matches(name, names, count, cutoff=0.5)
    return f"; did you mean {' or '.join(map(repr, near[:count]))}?" if near else "."


def parse(kind: type, values: Mapping[str, Any], where: str) -> Any:
    """An instance of the options dataclass `kind`, every key known, present, of its type and within its bounds.

    Raises `ConfigError` naming `where` and the key, what was found and what is allowed. Nothing is coerced but an
    integer given for a float.
    """
    fields = {field.name: field for field in dataclasses.fields(kind)}
    for name in values:
        if name not in fields:
            raise ConfigError(f"{where}.{name} is not an option{nearest(name, fields)} Options: {', '.join(fields)}.")
    missing = [name for name in fields if name not in values]
    if missing:
        raise ConfigError(f"{where} lacks {', '.join(missing)}; start from `engine.config.experiment`, which fills in.")
    types = typing.get_type_hints(kind)
    return kind(**{name: _check(f"{where}.{name}", values[name], types[name], fields[name]) for name in fields})


def _check(where: str, value: Any, kind: Any, field: dataclasses.Field) -> Any:
    if typing.get_origin(kind) is tuple and isinstance(value, (list, tuple)):
        if not value and not field.metadata["empty"]:
            raise ConfigError(f"{where} is empty; give at least one value.")
        element = typing.get_args(kind)[0]
        return tuple(_check(f"{where}[{i}]", x, element, field) for i, x in enumerate(value))
    kind = typing.get_origin(kind) or kind
    if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
        return parse(kind, value, where)
    if kind is float and type(value) is int:
        value = float(value)
    if kind is dict and isinstance(value, Mapping):
        value = named(where, value)
    if type(value) is not kind:
        raise ConfigError(f"{where} is {value!r}, a {type(value).__name__}; it must be a {kind.__name__}.")
    if field.metadata.get("names") and not value.isidentifier():
        raise ConfigError(f"{where} is {value!r}, which is no name; write several as ('one', 'another').")
    if "choices" in field.metadata and value not in field.metadata["choices"]:
        choices = field.metadata["choices"]
        allowed = ", ".join(map(str, choices))
        raise ConfigError(f"{where} is {value!r}{nearest(value, choices)} It must be one of {allowed}.")
    if "low" in field.metadata and not field.metadata["low"] <= value <= field.metadata["high"]:
        low, high = field.metadata["low"], field.metadata["high"]
        bound = f"at least {low}" if high == math.inf else f"between {low} and {high}"
        raise ConfigError(f"{where} is {value!r}; it must be {bound}.")
    return absolute_location(field, value) if field.metadata.get("path") else value


def named(where: str, value: Mapping) -> dict[str, Any]:
    """A dict of the user's own names, such as an optimiser's arguments."""
    for name in value:
        if not (isinstance(name, str) and name.isidentifier()):
            raise ConfigError(f"{where} has the name {name!r}; a name consists of letters, digits and _.")
    return dict(value)
