"""The registry of families. A family's module has `Options`, `GROUPS` and `make(options, spec, optimizers)`.

It has `CONTINUOUS_VALUED = True` if `make` also takes specs of 0 `levels`: real numbers, not clipped to [-1, 1].
"""

import importlib
from types import ModuleType

from genimg_jax.errors import ConfigError
from genimg_jax.options import nearest

REGISTRY = (
    "autoencoder",
    "bigan",
    "cyclegan",
    "diffusion",
    "flow",
    "gan",
    "made",
    "masked",
    "meanflow",
    "pix2pix",
    "pixelcnn",
    "realnvp",
    "regressor",
    "rnn",
    "spade",
    "stylegan2",
    "transformer",
    "vae",
    "vq",
    "vqgan",
)


def load(name: str) -> ModuleType:
    """The family's module. Raises `ConfigError` for a name that is not in the registry."""
    if name not in REGISTRY:
        raise ConfigError(f"family is {name!r}{nearest(name, REGISTRY)} It must be one of {', '.join(REGISTRY)}.")
    return importlib.import_module(f"genimg_jax.families.{name}")
