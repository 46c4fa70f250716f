"""Scores of restored images, one value for each image: against the truth, and against the observation.

All is computed in float64. An image is the unit of every interval, since pixels of one image depend on each other.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
from scipy.ndimage import correlate1d

from genimg_jax.errors import DataError
from genimg_jax.metrics import intervals
from genimg_jax.metrics.arrays import feature_sets
from genimg_jax.metrics.features import FeatureNetwork
from genimg_jax.metrics.specs import Measurement, MetricSpec, Scalar

LEAST_ERROR = 1e-10  # mean squared error at which PSNR stops, as that of training does
RADIUS, SIGMA = 5, 1.5  # of the Gaussian window of SSIM: 11 pixels wide
WIDTH = 2 * RADIUS + 1
K1, K2 = 0.01, 0.03
EXPONENTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # of the scales of MS-SSIM, the finest first
BLOCK = 2**20  # values of images that SSIM takes at a time: its maps in float64 need about 100 MB

PSNR_PROTOCOL = {"peak": 2, "least mean squared error": LEAST_ERROR}
SSIM_PROTOCOL = {
    "range": "[0, 1]",
    "window": f"Gaussian, {WIDTH} pixels, deviation {SIGMA}",
    "K1": K1,
    "K2": K2,
    "moments": "population",
    "borders": "whole windows only",
    "colour": "mean over channels",
}


# ------------------------------------------------------------------------------------------------ against the truth


def psnr(result: np.ndarray, truth: np.ndarray) -> np.ndarray:  # f32[N, H, W, C] in [-1, 1] x 2 -> f64[N]
    """The peak signal-to-noise ratio in dB. It is at most 106 dB, so that means with identical images are finite."""
    result, truth = _images(result, truth)
    difference = (result.astype(np.float64) - truth).reshape(len(truth), -1)
    return 10 * np.log10(4 / np.maximum(np.square(difference).mean(axis=1), LEAST_ERROR))


def ssim(result: np.ndarray, truth: np.ndarray) -> np.ndarray:  # f32[N, H, W, C] in [-1, 1] x 2 -> f64[N]
    """Structural similarity (Wang et al. 2004, equation 13), from -1 to 1, the mean over windows and channels.

    Images are scaled to [0, 1] first, because the luminance term needs values that are not negative. Raises
    `DataError` for images smaller than the window of 11 pixels.
    """
    return _in_blocks(lambda x, y: _similarity(x, y)[0].mean(axis=1), result, truth)


def ms_ssim(result: np.ndarray, truth: np.ndarray) -> np.ndarray:  # f32[N, H, W, C] in [-1, 1] x 2 -> f64[N]
    """Multi-scale SSIM (Wang, Simoncelli and Bovik 2003, equation 7), from 0 to 1, the mean over channels.

    Five scales need 176 pixels. Smaller images have `num_scales`, with the first exponents divided by their sum. A
    scale is the 2x2 block means of the one before, without an odd last row or column. Negative means count as 0.
    """
    count = num_scales(truth.shape[1:])
    exponents = np.array(EXPONENTS[:count]) / sum(EXPONENTS[:count])

    def product(x: np.ndarray, y: np.ndarray) -> np.ndarray:  # f64[n, H, W, C] x 2 -> f64[n]
        value = 1.0
        for scale, exponent in enumerate(exponents, 1):
            whole, structure = _similarity(x, y)
            value = value * np.maximum(whole if scale == count else structure, 0) ** exponent
            x, y = _half(x), _half(y)
        return value.mean(axis=1)

    return _in_blocks(product, result, truth)


def num_scales(image_shape: tuple[int, ...]) -> int:
    """The scales of MS-SSIM whose images are at least as large as the window: at most 5, and 2 for 32 pixels."""
    return min((min(image_shape[:2]) // WIDTH).bit_length(), len(EXPONENTS))


def feature_distance(result: np.ndarray, truth: np.ndarray) -> np.ndarray:  # [N, D] x 2 -> f64[N]
    """The squared Euclidean distance of each result's features from those of its truth, in any feature network."""
    result, truth = feature_sets(1, result=result, truth=truth)
    _same_shape(result, truth)
    return np.square(result.astype(np.float64) - truth).sum(axis=1)


# ------------------------------------------------------------------------------------------ against the observation


def residual(
    predicted: np.ndarray, observed: np.ndarray, noise: float = 0.0, where: np.ndarray | None = None
) -> np.ndarray:  # f32[N, ...] x 2 -> f64[N]
    """The root mean square of A(result) - observed, over the entries that are True in `where` (by default all).

    With `noise`, the standard deviation of the observation's noise, it is in units of it: the mean square is then 1
    for samples of the exact posterior, since these and the truth have one joint distribution with the observation. Less
    than 1 means that the result reproduces the noise. Without noise it is in units of [-1, 1], and 0 is exact.
    """
    predicted, observed = _same_shape(predicted, observed)
    return root_mean_square(predicted.astype(np.float64) - observed, where) / (noise or 1)


def entries(where: np.ndarray | None, shape: tuple[int, ...]) -> np.ndarray:  # -> bool[N, ...]
    """`where`, or all, for arrays of this shape [N, ...]. Raises `DataError` where an image has no entry."""
    where = np.broadcast_to(True if where is None else where, shape)
    counted = where.reshape(len(where), -1).any(axis=1)
    if not counted.all():
        raise DataError(f"no entry of image {np.argmin(counted)} is to be scored; leave such images out.")
    return where


def entry_mean(x: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:  # f64[N, ...] -> f64[N]
    """The mean over each image's entries, or over those that are True in `where`, which broadcasts to x."""
    return x.mean(axis=tuple(range(1, x.ndim)), where=entries(where, x.shape))


def root_mean_square(x: np.ndarray, where: np.ndarray | None = None) -> np.ndarray:  # f64[N, ...] -> f64[N]
    return np.sqrt(entry_mean(np.square(x), where))


# ----------------------------------------------------------------------------------------------------- measurements


class Comparison(NamedTuple):
    """What the scores of one task share."""

    reference: str  # the dataset of the truths
    split: str | None
    seed: int  # of the observations' noise and of the results
    protocol: Mapping[str, Scalar] = {}  # everything that was asked, such as {"observation": "4 times smaller"}


def spec(
    metric: str,
    images: int,
    comparison: Comparison,
    protocol: Mapping[str, Scalar],
    network: FeatureNetwork | None = None,
    samples: int = 1,
) -> MetricSpec:
    """The spec of a metric of this many images, with `samples` results each."""
    features = (network.name, network.weights, network.resize) if network else (None, None, None)
    described = {**comparison.protocol, **protocol, "samples an image": samples}
    reference = comparison.reference, comparison.split, images, comparison.seed
    return MetricSpec(metric, *features, images * samples, *reference, described)


def measurement(
    metric: str,
    values: np.ndarray,
    comparison: Comparison,
    protocol: Mapping[str, Scalar],
    network: FeatureNetwork | None = None,
    samples: int = 1,
) -> Measurement:  # f64[N]
    """The mean over images, with Student's interval of 95 % where there are at least two."""
    described = spec(metric, len(values), comparison, {**protocol, "level": 0.95}, network, samples)
    if len(values) < 2:
        return Measurement(float(values[0]), described)
    interval = intervals.mean(values)
    return Measurement(interval.estimate, described, interval.low, interval.high)


def measurements(result: np.ndarray, truth: np.ndarray, comparison: Comparison) -> dict[str, Measurement]:
    """PSNR, SSIM and MS-SSIM of images f32[N, H, W, C]; the first alone of images that are smaller than the window."""
    measured = {"psnr": measurement("psnr", psnr(result, truth), comparison, PSNR_PROTOCOL)}
    if scales := num_scales(truth.shape[1:]):
        weights = "published, divided by their sum"
        protocol = {**SSIM_PROTOCOL, "scales": scales, "exponents": weights, "downsampling": "2x2 means"}
        measured["ssim"] = measurement("ssim", ssim(result, truth), comparison, SSIM_PROTOCOL)
        measured["ms_ssim"] = measurement("ms_ssim", ms_ssim(result, truth), comparison, protocol)
    return measured


def feature_measurement(
    result: np.ndarray, truth: np.ndarray, network: FeatureNetwork, comparison: Comparison
) -> Measurement:  # [N, D] x 2
    protocol = {"distance": "squared Euclidean"}
    return measurement("feature_distance", feature_distance(result, truth), comparison, protocol, network)


def residual_measurement(
    predicted: np.ndarray,
    observed: np.ndarray,
    comparison: Comparison,
    noise: float = 0.0,
    where: np.ndarray | None = None,
) -> Measurement:  # f32[N, ...] x 2
    protocol = {"mean": "root mean square", "unit": "[-1, 1]" if noise == 0 else f"noise of deviation {noise:g}"}
    return measurement("residual", residual(predicted, observed, noise, where), comparison, protocol)


# ----------------------------------------------------------------------------------------------------------- details


def _same_shape(result: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if result.shape != truth.shape or not len(truth):
        raise DataError(f"results of shape {result.shape} cannot be compared with truths of shape {truth.shape}.")
    return result, truth


def _images(result: np.ndarray, truth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Raises `DataError` unless both are [N, H, W, C] in [-1, 1], up to rounding."""
    _same_shape(result, truth)
    for name, images in (("results", result), ("truths", truth)):
        if images.ndim != 4 or not np.abs(images, dtype=np.float64).max() <= 1 + 1e-5:
            raise DataError(f"the {name}, of shape {images.shape}, must be images [N, H, W, C] in [-1, 1].")
    return result, truth


def _in_blocks(function: Callable, result: np.ndarray, truth: np.ndarray) -> np.ndarray:  # -> f64[N]
    """The function of images scaled to [0, 1], for some images at a time."""
    result, truth = _images(result, truth)
    if min(truth.shape[1:3]) < WIDTH:
        size = " x ".join(map(str, truth.shape[1:3]))
        raise DataError(f"SSIM needs images of at least {WIDTH} x {WIDTH} pixels, and these have {size}.")
    count = max(1, BLOCK // truth[0].size)
    blocks = (slice(start, start + count) for start in range(0, len(truth), count))
    return np.concatenate(
        [function(*((x[block].astype(np.float64) + 1) / 2 for x in (result, truth))) for block in blocks]
    )


def _window_mean(x: np.ndarray) -> np.ndarray:  # f64[N, H, W, C] -> f64[N, H-10, W-10, C]
    window = np.exp(-np.square(np.arange(-RADIUS, RADIUS + 1) / SIGMA) / 2)
    for axis in (1, 2):
        x = correlate1d(x, window / window.sum(), axis)
    return x[:, RADIUS:-RADIUS, RADIUS:-RADIUS]


def _similarity(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:  # f64[N, H, W, C] x 2 -> f64[N, C] x 2
    """SSIM, and its factor of contrast and structure, as means over windows."""
    mean_x, mean_y = _window_mean(x), _window_mean(y)
    product, squares = mean_x * mean_y, np.square(mean_x) + np.square(mean_y)
    covariance, variances = _window_mean(x * y) - product, _window_mean(np.square(x) + np.square(y)) - squares
    structure = (2 * covariance + K2**2) / (variances + K2**2)
    luminance = (2 * product + K1**2) / (squares + K1**2)
    return (luminance * structure).mean(axis=(1, 2)), structure.mean(axis=(1, 2))


def _half(x: np.ndarray) -> np.ndarray:  # [N, H, W, C] -> [N, H/2, W/2, C]
    height, width = (size // 2 for size in x.shape[1:3])
    return x[:, : 2 * height, : 2 * width].reshape(len(x), height, 2, width, 2, -1).mean(axis=(2, 4))
