"""Configurations of runs of earlier versions, in today's terms."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from genimg_jax import data, families
from genimg_jax.engine import optimizers
from genimg_jax.engine.config import SECTIONS, merged

# Earlier names of options and of their values, which runs of those versions have in their `config.json`.
OLD_OPTIONS = {
    "data.shapes_count": "shapes.count",
    "data.shapes_seed": "shapes.seed",
    "model.least": "sigma_min",
    "model.greatest": "sigma_max",
    "model.data_std": "sigma_data",
    "model.times_mean": "P_mean",
    "model.times_std": "P_std",
    "model.guide_width": "autoguidance_width",
    "model.guidance_least": "guidance_sigma_min",
    "model.guidance_greatest": "guidance_sigma_max",
    "model.path": "noise_schedule",
    "model.grid": "sigma_schedule",
    "model.spans": "shortcut_ratio",
    "model.loop": "scan_layers",
    "model.halvings": "num_downsamples",
    "model.reach": "kernel_radius",
    "model.first_reach": "first_kernel_radius",
    "model.revival_threshold": "dead_code_threshold",
    "model.label_dropout": "condition_dropout",
    "model.conditional": "conditions",
}
OLD_VALUES = {
    ("model.conditions", True): ("label",),
    ("model.conditions", False): (),
    ("model.target", "image"): "x0",
    ("model.target", "noise"): "epsilon",
    ("model.target", "angular_velocity"): "v",
    ("model.sigma_schedule", "path_times"): "schedule_times",
    ("evaluate.features", "random_convolutions"): "random_conv",
}


def _renamed(section: str, options: Mapping[str, Any]) -> dict[str, Any]:
    """A section of a stored configuration under today's names."""
    renamed: dict[str, Any] = {}
    for name, value in options.items():
        name = OLD_OPTIONS.get(f"{section}.{name}", name)
        if isinstance(value, (str, bool)):
            value = OLD_VALUES.get((f"{section}.{name}", value), value)
        *above, last = name.split(".")
        place = renamed
        for each in above:
            place = place.setdefault(each, {})
        place[last] = value
    return renamed


def complete(stored: Mapping[str, Any]) -> dict[str, Any]:
    """A stored configuration under today's names. Options that its version did not have get their defaults, with which
    every version computes the same."""
    if "family" not in stored:
        return dict(stored)
    stored = {name: _renamed(name, part) if isinstance(part, Mapping) else part for name, part in stored.items()}
    module = families.load(stored["family"])
    kinds = {"model": module.Options, **SECTIONS}
    filled = {name: merged(asdict(kind()), stored.get(name, {})) for name, kind in kinds.items()}
    options, default = stored.get("optimizer", {}), asdict(optimizers.Options())
    stored_data = stored.get("data", {})
    if "validation_split" not in stored_data:  # checkpoints were ranked on the split that is reported
        same = stored_data.get("evaluate_split", data.Options.evaluate_split)
        filled["data"] |= {"validation_split": same, "allow_overlap": True}
    single_group = len(module.GROUPS) == 1
    filled["optimizer"] = {**default, **options} if single_group else {g: {**default, **o} for g, o in options.items()}
    return {**stored, **filled}
