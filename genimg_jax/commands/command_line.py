"""Flags for every command: absl's, with a config's keys as `--config.a.b=value` (ml_collections)."""

from __future__ import annotations

import ast
import pathlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from absl import flags

from genimg_jax.errors import ConfigError
from genimg_jax.options import absolute, named, nearest

if TYPE_CHECKING:
    from genimg_jax.data import Part

Configured = str | Callable[[Sequence[str]], dict]
PARTS = ["train", "validation", "test"]  # names on the command line of the parts of a run's data


def parse(
    name: str,
    about: str,
    define: Callable[[flags.FlagValues], None],
    arguments: Sequence[str],
    config: Configured = "",
) -> flags.FlagValues:
    """The parsed flags of command `name`; their names may have hyphens for underscores. --help prints and exits with 0.

    `config` is the origin of the command's configuration: 'file' (a required `--config`), 'workdir' (the run's), a
    function of the arguments, or "" (none). The configuration with its overrides is then `values.config`, a ConfigDict.
    Raises `ConfigError`.
    """
    values = flags.FlagValues()
    define(values)
    arguments = underscored(arguments)
    original = list(arguments)
    path = _take(arguments, "config") if config == "file" else None
    if any(a in ("-h", "-help", "--help", "--helpfull") for a in arguments):
        print(f"genimg {name}: {about}\n\nflags:\n{_help(values, config)}")
        raise SystemExit(0)
    _refuse_repeated([a for a in original if not _is_list(a, values)])
    if config:
        from ml_collections import config_dict, config_flags

        loaded = _with_dicts(_load(config, path, arguments), arguments)
        _check_keys(arguments, loaded)
        config_flags.DEFINE_config_dict("config", loaded, flag_values=values, sys_argv=[name, *arguments])
        assert isinstance(loaded, config_dict.ConfigDict)
    try:
        rest = values([name, *arguments])
    except (flags.Error, ValueError, TypeError, KeyError) as error:
        raise ConfigError(f"{_sentence(error)} See genimg {name} --help.") from error
    if rest[1:]:
        raise ConfigError(f"genimg {name} takes flags only, found {rest[1]!r}. See genimg {name} --help.")
    return values


def underscored(arguments: Sequence[str]) -> list[str]:
    """The arguments with underscores in the names of flags: `--all-checkpoints` becomes `--all_checkpoints`."""

    def name(argument: str) -> str:
        flag, sign, value = argument.partition("=")
        return f"--{flag[2:].replace('-', '_')}{sign}{value}" if flag.startswith("--") else argument

    return [name(argument) for argument in arguments]


def is_set(arguments: Sequence[str], name: str) -> bool:
    return any(argument.lstrip("-").partition("=")[0] == name for argument in arguments if argument.startswith("-"))


def take_prefixed(arguments: Sequence[str], prefix: str) -> tuple[dict[str, str], list[str]]:
    """{NAME: VALUE} of the flags `--prefix.NAME=VALUE`, and the arguments without them."""
    rest = list(arguments)
    names = [a.lstrip("-").partition("=")[0] for a in arguments if a.startswith(f"--{prefix}.")]
    _refuse_repeated([f"--{name}" for name in names])
    return {name.removeprefix(f"{prefix}."): _take(rest, name) for name in names}, rest


def items(texts: Sequence[str], is_item: Callable[[str], bool]) -> list[str]:
    """The items of a list, which may be separated by commas in one flag, or given in several flags, or both.

    An item may contain commas: the longest run of parts for which `is_item` holds, such as an existing path, is one.
    """
    merged = []
    for text in texts:
        parts = text.strip(",").split(",")
        while parts:
            count = next((n for n in range(len(parts), 1, -1) if is_item(",".join(parts[:n]))), 1)
            merged.append(",".join(parts[:count]).strip())
            parts = parts[count:]
    return [item for item in merged if item]


def value(arguments: Sequence[str], name: str) -> str | None:
    """The value of a flag, before the flags are parsed."""
    return _take(list(arguments), name)


def _take(arguments: list[str], name: str) -> str | None:
    """Removes `--name value` or `--name=value`, and returns the value."""
    for i, argument in enumerate(arguments):
        if argument in (f"--{name}", f"-{name}"):
            if i + 1 == len(arguments):
                raise ConfigError(f"--{name} needs a value.")
            del arguments[i]
            return arguments.pop(i)
        if argument.startswith((f"--{name}=", f"-{name}=")):
            return arguments.pop(i).partition("=")[2]
    return None


def _load(config: Configured, path: str | None, arguments: Sequence[str]):
    from ml_collections import ConfigDict

    if callable(config):
        return ConfigDict(_tuples(config(arguments)))
    if config == "file":
        if not path:
            raise ConfigError("which experiment? Give --config configs/NAME.py, or configs/NAME.py:VARIANT.")
        from genimg_jax.engine import config_files

        return config_files.load(path)
    workdir = _take(list(arguments), "workdir")
    if not workdir:
        raise ConfigError("which run? Give --workdir DIRECTORY.")
    from genimg_jax.engine import config_files

    stored = config_files.of_run(pathlib.Path(absolute(workdir)))
    # Tuples come back from JSON as lists, whose overrides config_flags cannot parse.
    return ConfigDict(_tuples(stored))


def _tuples(value):
    if isinstance(value, dict):
        return {k: _tuples(v) for k, v in value.items()}
    return tuple(value) if isinstance(value, list) else value


def _overrides(arguments: Sequence[str]) -> list[str]:
    """The keys that are overridden, as `a.b`."""
    names = (a.lstrip("-").partition("=")[0] for a in arguments if a.startswith("-"))
    return [n.removeprefix("no").removeprefix("config.") for n in names if n.startswith(("config.", "noconfig."))]


def _with_dicts(config, arguments: list[str]):
    """The configuration with the overrides of options that are dicts, whole or by entry, as in
    `--config.optimizer.arguments.b1=0.5`. Removes these flags from the arguments, because config_flags accepts only
    entries that exist."""
    from ml_collections import ConfigDict

    from genimg_jax.engine.config import dict_above
    from genimg_jax.sweeps.grid import overlay

    values, updates = config.to_dict(), {}
    for key in _overrides(arguments):
        if not (option := dict_above(values, key)):
            continue
        text = _take(arguments, f"config.{key}")
        if text is None:
            raise ConfigError(f"--config.{key} needs a value.")
        try:
            updates[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            updates[key] = text
        if key == option and not isinstance(updates[key], dict):
            raise ConfigError(f"--config.{key} is {text}; it must be a dict such as {{'b1': 0.5}}.")
        named(f"--config.{option}", updates[key] if key == option else {key[len(option) + 1 :]: updates[key]})
    return ConfigDict(overlay(values, {key: updates[key] for key in sorted(updates)})) if updates else config


def _is_list(argument: str, values: flags.FlagValues) -> bool:
    """Whether an argument is a flag that may be repeated."""
    name = argument.lstrip("-").partition("=")[0]
    return argument.startswith("-") and name in values and isinstance(values[name], flags.MultiFlag)


def _refuse_repeated(arguments: Sequence[str]) -> None:
    names = [a.lstrip("-").partition("=")[0] for a in arguments if a.startswith("-")]
    for name in names:
        if names.count(name) > 1:
            raise ConfigError(f"--{name} is given {names.count(name)} times; give it once.")


def _check_keys(arguments: Sequence[str], config) -> None:
    from genimg_jax.engine.config import flatten, options_of

    values = config.to_dict()
    allowed = {**flatten(values), **options_of(values)}
    for key in _overrides(arguments):
        if key not in allowed:
            flag, names = f"--config.{key}", [f"--config.{name}" for name in allowed]
            raise ConfigError(f"{flag} is not in the configuration{nearest(flag, names)} Keys: {', '.join(allowed)}.")


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if text.endswith((".", "?")) else text + "."


def _help(values: flags.FlagValues, config: Configured) -> str:
    lines = "  --config: FILE.py or FILE.py:VARIANT, the experiment (required)\n" if config == "file" else ""
    for name in sorted(values):
        flag = values[name]
        shown = "required" if flag.default is None and flag.help.endswith("(required)") else f"default {flag.default!r}"
        lines += f"  --{name}: {flag.help}" + ("" if shown == "required" else f" [{shown}]") + "\n"
    if config:
        lines += "  --config.SECTION.KEY=VALUE: overrides a value of the configuration\n"
    return lines


def part(name: str) -> Part:
    """The part of a run's data, by its name on the command line."""
    from genimg_jax.data import Part

    return dict(zip(PARTS, Part, strict=True))[name]


def workdir(values: flags.FlagValues) -> pathlib.Path:
    """The required run directory."""
    if not values.workdir:
        raise ConfigError("which run? Give --workdir DIRECTORY.")
    return pathlib.Path(absolute(values.workdir))
