"""Feature networks: images are compared by their features. Any distance takes the features of any network.

Distances in different features cannot be compared: `specs` keeps them apart by name and weights.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax import files
from genimg_jax.backend import FULL_PRECISION
from genimg_jax.errors import ConfigError, DataError
from genimg_jax.metrics import weight_files
from genimg_jax.networks import inception
from genimg_jax.networks.layers import Conv
from genimg_jax.progress import bar

RESIZES = ("pytorch-fid", "tensorflow")


class FeatureNetwork(NamedTuple):
    name: str
    weights: str | None
    """A digest of the weights, or of the recipe that they were drawn by; None for a network without weights."""
    resize: str | None
    """The method that resizes images to the network's size; None if they keep theirs."""
    parameters: Any
    apply: Callable[[Any, jax.Array], jax.Array]
    """(parameters, f32[B, H, W, C] in [-1, 1]) -> f32[B, D], each row of its own image alone. One object for networks
    of one kind, so that they share a compiled program."""


def _flatten(parameters: Any, image: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, H W C]
    return image.reshape(len(image), -1)


pixels = FeatureNetwork("pixels", None, None, {}, _flatten)


class RandomConvolutions(nn.Module):
    """3x3 convolutions and rectifiers at every scale from the image's size down to 2 or less, halved by averages; the
    features are all scales' channels, averaged over the image."""

    width: int = 64

    @nn.compact
    def __call__(self, image: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, D]
        x, features, level = image, [], 0
        while True:
            for _ in range(2):
                x = nn.relu(Conv(self.width * min(2**level, 4))(x))
            features.append(x.mean(axis=(1, 2)))
            if min(x.shape[1:3]) <= 2:
                return jnp.concatenate(features, axis=1)
            x, level = nn.avg_pool(x, (2, 2), (2, 2), "SAME", count_include_pad=False), level + 1


def _apply_random(parameters: Any, image: jax.Array) -> jax.Array:  # [B, H, W, C] -> [B, D]
    return RandomConvolutions().apply({"params": parameters}, image)


@partial(jax.jit, static_argnums=1)
def _draw(key: jax.Array, image_shape: tuple[int, int, int]) -> Any:
    image = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    return RandomConvolutions().lazy_init(key, image)["params"]


def random_conv(image_shape: tuple[int, int, int], seed: int = 0) -> FeatureNetwork:
    """An untrained network: nothing to download, the same on every machine, and not fitted to any dataset. Naeem et al.
    2020, section 3.3, find such features fair for images that ImageNet's features do not fit.

    The weights follow from the seed and the image's shape (height, width, channels).
    """
    parameters = _draw(jax.random.key(seed), tuple(image_shape))
    # A digest of the recipe, not of the values: their last bits differ between backends.
    text = f"He normal, Threefry key {seed}, {image_shape}, {jax.tree.map(jnp.shape, parameters)}"
    return FeatureNetwork("random_conv", files.digest(text, 12), None, parameters, _apply_random)


def _bilinear(size: int, out: int, resize: str) -> np.ndarray:  # -> f32[out, size]
    """The weights of bilinear interpolation along one axis, clamped at the ends, with no blurring first.

    PyTorch (`align_corners=False`) takes pixels as areas: pixel i is centred on i + 1/2. TensorFlow 1 took them as
    points, which moves the image by up to half a pixel; the published Inception weights and the first FIDs used that.
    """
    place = np.arange(out) * (size / out) if resize == "tensorflow" else (np.arange(out) + 0.5) * (size / out) - 0.5
    place = np.clip(place, 0, size - 1)
    low = np.floor(place).astype(int)
    high = np.minimum(low + 1, size - 1)
    weights = np.zeros((out, size))
    np.add.at(weights, (np.arange(out), low), 1 - (place - low))
    np.add.at(weights, (np.arange(out), high), place - low)
    return weights.astype(np.float32)


def inception_input(image: jax.Array, resize: str) -> jax.Array:  # [B, H, W, C] in [-1, 1] -> [B, 299, 299, 3]
    """The input of Inception, from images of 256 levels as files hold them; grey images fill all three channels.

    'pytorch-fid' scales levels to [-1, 1], 'tensorflow' (and torch-fidelity) to (level - 128) / 128.
    """
    if image.shape[-1] not in (1, 3):
        raise DataError(f"Inception reads images of 1 or 3 channels, and these have {image.shape[-1]}.")
    level = jnp.round((jnp.clip(image, -1, 1) + 1) * 127.5)
    rows, columns = (_bilinear(size, inception.SIZE, resize) for size in image.shape[1:3])
    level = jnp.einsum("bhwc,yh->bywc", level, rows, precision=FULL_PRECISION)
    level = jnp.einsum("bywc,xw->byxc", level, columns, precision=FULL_PRECISION)
    scaled = (level - 128) / 128 if resize == "tensorflow" else level / 127.5 - 1
    return jnp.broadcast_to(scaled, (*scaled.shape[:3], 3))


def _apply_inception(resize: str, output: int, parameters: Any, image: jax.Array) -> jax.Array:
    return inception.Inception().apply({"params": parameters}, inception_input(image, resize))[output]


_INCEPTION = {(resize, output): partial(_apply_inception, resize, output) for resize in RESIZES for output in (0, 1)}


def _inception(path: str | Path, resize: str, output: int, name: str) -> FeatureNetwork:
    if resize not in RESIZES:
        raise ConfigError(f"resize is {resize!r}; it must be one of {', '.join(RESIZES)}.")
    arrays = weight_files.load(path)
    parameters = jax.tree.map(jnp.asarray, inception.parameters(arrays))
    return FeatureNetwork(name, files.digest_arrays(arrays), resize, parameters, _INCEPTION[resize, output])


def inception_features(path: str | Path, resize: str = "pytorch-fid") -> FeatureNetwork:
    """The 2,048 features of FID (Heusel et al. 2017), from the published file pt_inception-2015-12-05-6726825d.pth or
    its arrays as safetensors. The two resizes give different figures, under different digests."""
    return _inception(path, resize, 0, "inception-v3")


def inception_logits(path: str | Path, resize: str = "tensorflow") -> FeatureNetwork:
    """The 1,008 logits whose softmax the Inception score is computed from."""
    return _inception(path, resize, 1, "inception-v3 logits")


def _regrouped(batches: Iterable[np.ndarray], size: int) -> Iterator[np.ndarray]:  # [n, ...] ... -> [size, ...] ...
    pending = None
    for batch in batches:
        pending = batch if pending is None else np.concatenate([pending, batch])
        while len(pending) >= size:
            yield pending[:size]
            pending = pending[size:]
    if pending is not None and len(pending):
        yield pending


_run = jax.jit(lambda apply, parameters, image: apply(parameters, image), static_argnums=0)


def extract(
    network: FeatureNetwork, images: np.ndarray | Iterable[np.ndarray], batch: int = 64
) -> np.ndarray:  # f32[N, H, W, C] in [-1, 1], whole or in batches of any size -> f32[N, D]
    """The features of all images, in their order. `batch` bounds the memory; features change only by rounding.

    Images of fewer levels must be rounded to them already: files are compared, and a file holds whole levels.
    """
    is_array = isinstance(images, np.ndarray)
    rows = []
    with bar("features", leave=False, total=len(images) if is_array else None, unit="image") as progress:
        for part in _regrouped([images] if is_array else images, batch):
            full = np.pad(part, [(0, batch - len(part))] + [(0, 0)] * 3)
            rows.append(
                np.asarray(_run(network.apply, network.parameters, jnp.asarray(full, jnp.float32)))[: len(part)]
            )
            progress.update(len(part))
    if not rows:
        raise DataError("there are no images to take features of.")
    return np.concatenate(rows)
