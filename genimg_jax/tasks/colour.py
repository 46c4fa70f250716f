"""Colour transfer in closed form: an image takes the mean and the covariance of another image's colours.

A Gaussian is fitted to the pixels of each image. The colours are moved by the map of least mean squared change that
takes one Gaussian to the other (the linear Monge-Kantorovitch transfer of Pitié and Kokaram 2007). In float64: nearly
grey images have covariances that are nearly singular.
"""

import numpy as np

LEAST_VARIANCE = 1e-10  # of a direction in colour space; one of 256 levels is 8e-3, and its square 6e-5


def moments(image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The mean of an image's pixels, and their covariance over all pixels."""
    # [B, H, W, C] -> f64[B, C], f64[B, C, C]
    pixels = image.reshape(len(image), -1, image.shape[-1]).astype(np.float64)
    mean = pixels.mean(1)
    deviations = pixels - mean[:, None]
    return mean, deviations.swapaxes(1, 2) @ deviations / pixels.shape[1]


def monge_map(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The matrix A = S^-1/2 (S^1/2 T S^1/2)^1/2 S^-1/2 of the optimal map between centred Gaussians of covariances S
    and T.

    S^-1/2 is a pseudo-inverse: a direction without variance in S gets none. So A S A = T only where S has full rank.
    """  # f64[B, C, C], f64[B, C, C] -> f64[B, C, C]
    root, inverse = _power(source, 0.5), _power(source, -0.5)
    return inverse @ _power(root @ target @ root, 0.5, least=0.0) @ inverse


def match_moments(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """Each content image with the colours x moved to m_t + A (x - m_s): the mean m_t and the covariance of its style,
    in any range. Both may have different sizes."""
    # [B, H, W, C], [B, h, w, C] -> f64[B, H, W, C]
    (mean, covariance), (style_mean, style_covariance) = moments(content), moments(style)
    matrix = monge_map(covariance, style_covariance)
    centred = content - mean[:, None, None]
    return style_mean[:, None, None] + np.einsum("bhwc,bdc->bhwd", centred, matrix)


def transfer(content: np.ndarray, style: np.ndarray) -> np.ndarray:
    """`match_moments`, clipped to [-1, 1]; what is clipped changes the moments."""
    # [B, H, W, C], [B, h, w, C] -> f32[B, H, W, C]
    return np.clip(match_moments(content, style), -1, 1).astype(np.float32)


def _power(matrix: np.ndarray, exponent: float, least: float = LEAST_VARIANCE) -> np.ndarray:
    """The power of a symmetric matrix, of which only eigenvalues above `least` count."""  # [B, C, C] -> [B, C, C]
    values, vectors = np.linalg.eigh(matrix)
    counts = values > least
    powers = np.where(counts, np.where(counts, values, 1) ** exponent, 0)
    return (vectors * powers[:, None]) @ vectors.swapaxes(1, 2)
