"""Scores of a generated set alone: they measure its diversity, not its fidelity to the data."""

from typing import NamedTuple

import numpy as np
from scipy.special import rel_entr

from genimg_jax.errors import DataError
from genimg_jax.metrics.arrays import feature_set
from genimg_jax.metrics.frechet import ROWS


class InceptionScore(NamedTuple):
    """exp of `information`, the mutual information of image and class in nats. `standard_error` is of `information`.

    `bias` is how far the information of N images is expected to lie below that of infinitely many, to order 1 / N.
    """

    score: float
    information: float
    standard_error: float
    bias: float


def inception_score(probabilities: np.ndarray) -> InceptionScore:  # [N, K]
    """exp(mean over images of KL(p(class | image) || p(class))): Salimans et al. 2016, section 4.

    Between 1 and K. `probabilities` come from a classifier that must be named with the score. Over all N at once: the
    usual mean over ten parts scores N / 10 samples, and the estimate is biased downwards by order K / N: the entropy of
    the mean loses sum_k var p_k / (2 N mean p_k) (Miller 1955, of probabilities in place of counts). The standard error
    is that of the information, whose influence function is the divergence itself less its mean.
    """
    probabilities = np.asarray(probabilities, np.float64)
    if probabilities.ndim != 2 or len(probabilities) < 2:
        raise DataError(f"class probabilities must be [samples, classes]; found shape {probabilities.shape}.")
    if not (np.all(probabilities >= 0) and np.allclose(probabilities.sum(axis=1), 1, atol=1e-4)):
        raise DataError("class probabilities must not be negative and must sum to one; apply a softmax to the logits.")
    probabilities = probabilities / probabilities.sum(axis=1, keepdims=True)
    means = probabilities.mean(axis=0)
    divergences = rel_entr(probabilities, np.broadcast_to(means, probabilities.shape)).sum(axis=1)
    information = divergences.mean()
    error = divergences.std(ddof=1) / np.sqrt(len(divergences))
    bias = np.divide(probabilities.var(axis=0, ddof=1), means, out=np.zeros_like(means), where=means > 0).sum() / 2
    return InceptionScore(*map(float, (np.exp(information), information, error, bias / len(probabilities))))


def vendi_score(features: np.ndarray) -> float:  # [N, D]
    """The effective number of different elements (Friedman and Dieng 2023, definition 3.1), from 1 to min(N, D).

    exp of the entropy of the eigenvalues of the similarity matrix over N, with cosine similarity. The D x D matrix of
    second moments of the normalised features has the same eigenvalues, and is used where D < N. It is summed over
    blocks of rows: float64 of all rows would be twice the memory of the features.
    """
    features = feature_set(features, "given", least=1)
    if features.shape[1] < len(features):
        blocks = np.array_split(features, -(-len(features) // ROWS))
        second = sum(unit.T @ unit for unit in map(_normalised, blocks))
    else:
        unit = _normalised(features)
        second = unit @ unit.T
    weights = np.maximum(np.linalg.eigvalsh(second / len(features)), 0)
    weights = weights / weights.sum()
    return float(np.exp(-np.sum(weights * np.log(np.where(weights > 0, weights, 1)))))


def _normalised(features: np.ndarray) -> np.ndarray:  # f32[N, D] -> f64[N, D]
    features = features.astype(np.float64)
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    if not lengths.all():
        raise DataError("a feature vector is zero, and cosine similarity cannot compare it with any other.")
    return features / lengths
