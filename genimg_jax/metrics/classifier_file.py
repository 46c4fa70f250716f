"""A trained classifier in one file, and its networks: weights as safetensors, its record as metadata."""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict
from safetensors import safe_open
from safetensors.numpy import save_file

from genimg_jax import files
from genimg_jax.errors import CheckpointError
from genimg_jax.metrics import weight_files
from genimg_jax.metrics.features import FeatureNetwork
from genimg_jax.networks.classifier import ImageClassifier


def save(path: Path, arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> None:
    """Raises `OSError`. The record's `weights` is the digest of the arrays."""
    with files.atomic_path(path) as temporary:
        save_file(arrays, temporary, {"record": json.dumps(record)})


def load(path: Path, cure: str) -> tuple[tuple[FeatureNetwork, FeatureNetwork], dict[str, Any]]:
    """The networks of features and logits, and the record.

    Raises `CheckpointError`, with the cure, where the file is missing or not what was written.
    """
    try:
        arrays = weight_files.load(path)
        with safe_open(path, "np") as file:
            record = json.loads(file.metadata()["record"])
        both = networks(arrays, record)
    except (CheckpointError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"the classifier {path} cannot be read; {cure} ({error}).") from error
    if (digest := files.digest_arrays(arrays)) != record["weights"]:
        raise CheckpointError(
            f"the classifier {path} holds other weights ({digest}) than its record says ({record['weights']}): it is "
            f"damaged; {cure}."
        )
    return both, record


def networks(arrays: Mapping[str, np.ndarray], record: Mapping[str, Any]) -> tuple[FeatureNetwork, FeatureNetwork]:
    """The networks of the penultimate layer's features, after its rectifier, and of the logits, in float32."""
    recipe, name = record["recipe"], record["name"]
    network = ImageClassifier(recipe["width"], recipe["features"], record["classes"])
    variables = unflatten_dict({key: jnp.asarray(x, jnp.float32) for key, x in arrays.items()}, sep="/")
    titles = f"classifier {name}", f"logits of classifier {name}"
    return tuple(
        FeatureNetwork(title, record["weights"], None, variables, _apply(network, i)) for i, title in enumerate(titles)
    )


@functools.lru_cache
def _apply(network: ImageClassifier, output: int) -> Callable:
    return lambda variables, image: network.apply(variables, image, False)[output]
