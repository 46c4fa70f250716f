"""An experiment's configuration: its sections and their defaults.

`experiment` fills in the defaults of every section, so that each key can be overridden on the command line and none is
ever looked up with a fallback.
"""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import Field, asdict, dataclass
from typing import Any, NamedTuple

from ml_collections import ConfigDict

from genimg_jax import data, families, files
from genimg_jax.engine import optimizers, parallel, runtime
from genimg_jax.errors import ConfigError
from genimg_jax.options import absolute_location, bounded, choice, leaves, location, nearest, parse


@dataclass(frozen=True)
class TrainOptions:
    steps: int = bounded(1000, 1)
    batch_size: int = bounded(128, 1)  # images a step, over all devices
    microbatches: int = bounded(1, 1)  # slices whose gradients are accumulated, to save memory
    precision: str = choice("float32", "float32", "bfloat16")  # of the gradients' computation; parameters stay float32
    log_every: int = bounded(50, 1)  # steps between lines of metrics
    evaluate_every: int = bounded(500, 0)  # steps between passes over the validation images; 0: never
    checkpoint_every: int = bounded(500, 1)
    sample_every: int = bounded(500, 0)  # steps between sample grids; 0: never
    samples: int = bounded(64, 1)  # images in a grid
    keep: int = bounded(2, 1)  # latest checkpoints kept, besides the best one
    best: str = ""  # validation metric whose best value, by its direction, marks the best checkpoint; "": the last one


@dataclass(frozen=True)
class EvaluateOptions:
    batch_size: int = bounded(500, 1)  # images a call in evaluation and sampling, fewer if large; changes no result
    likelihood: bool = True  # whether `genimg evaluate` computes `log_prob` where the family has it
    # Held-out images whose class and caption are found by Bayes' rule (0: none), and the captions that each is found
    # among. A candidate costs a likelihood.
    retrieval_images: int = bounded(200, 0)
    retrieval_candidates: int = bounded(100, 2)
    samples: int = bounded(0, 0)  # images generated for the full suite; 0: as many as are held out
    seed: int = bounded(0, 0)  # of those images, and of whatever a metric draws
    features: str = "pixels,random_conv,classifier"  # what images are compared by, separated by commas
    inception: str = location()  # weight file of Inception-v3 (.pth or .safetensors), which adds its features; "": none
    neighbours: int = bounded(5, 1)  # k of precision, recall, density and coverage
    ties: str = choice("include", "include", "exclude")  # whether they count what lies on a ball's edge; prdc does not
    classifier_tests: bool = True  # whether the full suite trains classifiers on generated and on real images


@dataclass(frozen=True)
class TokenizerOptions:
    workdir: str = location()  # run over whose codes the family is trained; "": over pixels
    checkpoint: str = "best"  # best, last, or a step


SECTIONS = {
    "data": data.Options,
    "tokenizer": TokenizerOptions,
    "train": TrainOptions,
    "parallel": parallel.Options,
    "runtime": runtime.Options,
    "evaluate": EvaluateOptions,
}
# Sections that the variants for tests share: of 8x8 digits, and of larger images.
SIX_STEPS = {
    "train": {
        "steps": 6,
        "batch_size": 16,
        "log_every": 2,
        "evaluate_every": 4,
        "checkpoint_every": 4,
        "sample_every": 4,
    }
}
FOUR_STEPS = {
    "train": {
        "steps": 4,
        "batch_size": 16,
        "log_every": 2,
        "evaluate_every": 2,
        "checkpoint_every": 2,
        "sample_every": 2,
    },
    "evaluate": {"batch_size": 16},
}

SCALARS = {"seed": 0, "resume": "", "init_from": ""}
PATHS = {
    "resume": location(),
    "init_from": location(),
    **{
        f"{name}.{key}": f
        for name, kind in SECTIONS.items()
        for key, f in leaves(kind).items()
        if f.metadata.get("path")
    },
}

# Keys that may change when a run is continued, because training computes the same.
RESUMABLE_KEYS = re.compile(
    r"train\.(log_every|evaluate_every|checkpoint_every|sample_every|samples|keep|best)|(evaluate|parallel|runtime)\..*"
    r"|data\.(memory_mib|workers|evaluate_split|allow_overlap)|resume"
)


class Config(NamedTuple):
    """A resolved configuration: every value checked."""

    family: str
    model: Any  # the family's Options
    data: data.Options
    tokenizer: TokenizerOptions
    optimizer: dict[str, optimizers.Options]  # by parameter group
    train: TrainOptions
    parallel: parallel.Options
    runtime: runtime.Options
    evaluate: EvaluateOptions
    seed: int
    resume: str  # another run directory to continue from
    init_from: str  # another run directory to take matching parameters from


def load(path: str) -> ConfigDict:
    """`config_files.load`, kept here for experiment files that users wrote: they import it from this module."""
    from genimg_jax.engine import config_files  # it is built on this module

    return config_files.load(path)


def experiment(
    family: str, variant: str = "", variants: Mapping[str, Mapping[str, Any]] | None = None, **sections: Any
) -> ConfigDict:
    """A complete configuration: the sections override the defaults, and the variant overrides both.

    The sections and `model` and `optimizer` are dicts; `optimizer` holds one dict for each parameter group if the
    family has several. `variants` maps the name of a variant to its changes. Raises `ConfigError` for an unknown key or
    variant, with the nearest allowed one.
    """
    variants = variants or {}
    if variant and variant not in variants:
        listed = f"Variants: {', '.join(variants)}." if variants else "It has none."
        raise ConfigError(f"there is no variant {variant!r} of this configuration{nearest(variant, variants)} {listed}")
    sections = merged(sections, variants.get(variant, {}))
    module = families.load(family)
    kinds = {"model": module.Options, **SECTIONS}
    allowed = [*kinds, "optimizer", *SCALARS]
    for name in sections:
        if name not in allowed:
            raise ConfigError(_unknown(f"config.{name}", name, allowed))
    complete: dict[str, Any] = {"family": family}
    for name, kind in kinds.items():
        complete[name] = _fill(kind, sections.get(name, {}), f"config.{name}")
    group_options = sections.get("optimizer", {})
    if len(module.GROUPS) == 1:
        complete["optimizer"] = _fill(optimizers.Options, group_options, "config.optimizer")
    else:
        for name in group_options:
            if name not in module.GROUPS:
                raise ConfigError(_unknown(f"config.optimizer.{name}", name, module.GROUPS))
        complete["optimizer"] = {
            group: _fill(optimizers.Options, group_options.get(group, {}), f"config.optimizer.{group}")
            for group in module.GROUPS
        }
    for name, default in SCALARS.items():
        complete[name] = sections.get(name, default)
    return ConfigDict(located(complete))


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """The values with the changes in them, dict by dict."""
    both = {
        k: merged(values[k], v)
        for k, v in changes.items()
        if isinstance(v, Mapping) and isinstance(values.get(k), Mapping)
    }
    return {**values, **changes, **both}


def _unknown(where: str, name: str, allowed: Iterable[str]) -> str:
    return f"{where} is not an option{nearest(name, allowed)} Options: {', '.join(allowed)}."


def _fill(kind: type, values: Mapping[str, Any], where: str) -> dict[str, Any]:
    return asdict(parse(kind, merged(asdict(kind()), values), where))


def resolve(config: Mapping[str, Any]) -> Config:
    """The checked configuration. Raises `ConfigError` for any key or value that is not allowed."""
    values = config.to_dict() if isinstance(config, ConfigDict) else dict(config)
    expected = list(Config._fields)
    for name in values:
        if name not in expected:
            raise ConfigError(_unknown(f"config.{name}", name, expected))
    missing = [name for name in expected if name not in values]
    if missing:
        raise ConfigError(f"config lacks {', '.join(missing)}; start from `engine.config.experiment`, which fills in.")
    module = families.load(values["family"])
    groups = {module.GROUPS[0]: values["optimizer"]} if len(module.GROUPS) == 1 else values["optimizer"]
    if set(groups) != set(module.GROUPS):
        raise ConfigError(f"config.optimizer has groups {sorted(groups)}; {values['family']} has {module.GROUPS}.")
    for name, default in SCALARS.items():
        if type(values[name]) is not type(default):
            raise ConfigError(f"config.{name} is {values[name]!r}; it must be a {type(default).__name__}.")
    if not 0 <= values["seed"] < 2**31:
        raise ConfigError(f"config.seed is {values['seed']}; it must be between 0 and 2**31 - 1.")
    prefix = "config.optimizer" if len(module.GROUPS) == 1 else "config.optimizer.{}"
    checked = {name: parse(kind, values[name], f"config.{name}") for name, kind in SECTIONS.items()}
    optimizer = {g: parse(optimizers.Options, v, prefix.format(g)) for g, v in groups.items()}
    for group, options in optimizer.items():
        optimizers.check(options, prefix.format(group))
    return Config(
        family=values["family"],
        model=parse(module.Options, values["model"], "config.model"),
        optimizer=optimizer,
        **checked,
        **{name: located(values)[name] for name in SCALARS},
    )


def located(config: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration with absolute paths, as runs record and compare them."""

    def place(key: str, value: Any) -> Any:
        if isinstance(value, Mapping):
            return {name: place(f"{key}.{name}", each) for name, each in value.items()}
        return absolute_location(PATHS[key], value) if key in PATHS and isinstance(value, str) else value

    return {name: place(name, value) for name, value in config.items()}


def options_of(config: Mapping[str, Any]) -> dict[str, Field]:
    """The field of every option in the sections that a configuration has, by flat key."""
    kinds = {name: kind for name, kind in SECTIONS.items() if name in config}
    if "family" in config:
        module = families.load(config["family"])
        kinds["model"] = module.Options
        single_group = len(module.GROUPS) == 1
        kinds |= {"optimizer" if single_group else f"optimizer.{group}": optimizers.Options for group in module.GROUPS}
    return {f"{section}.{key}": field for section, kind in kinds.items() for key, field in leaves(kind).items()}


def dict_above(config: Mapping[str, Any], key: str) -> str:
    """The option with a dict, such as `optimizer.arguments`, that is `key` or contains it; "" if there is none."""
    dict_options = (name for name, field in options_of(config).items() if field.type in (dict, "dict"))
    return next((name for name in dict_options if f"{key}.".startswith(f"{name}.")), "")


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` as `{"a.b": 1}`; tuples as lists, as JSON has them."""
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, Mapping):
            flat.update(flatten(value, f"{prefix}{name}."))
        else:
            flat[prefix + name] = list(value) if isinstance(value, tuple) else value
    return flat


def digest(config: Mapping[str, Any]) -> str:
    """A hash that identifies a run's results: of every value except those of `RESUMABLE_KEYS`."""
    flat = {k: v for k, v in flatten(located(config)).items() if not RESUMABLE_KEYS.fullmatch(k)}
    return files.digest(json.dumps(flat, sort_keys=True))
