"""Does a generator repeat its training images? Distances to held-out images are the standard of comparison.

Three questions, each with a null hypothesis: the generator treats training and held-out images alike.

- `nearer_to_train`: are generated images nearer to the training set than to the held-out set? Which of the pooled real
  images were trained on is a label that may be permuted. (Counting generated images as independent coin tosses, a
  binomial test, is wrong: an image in a crowded place is nearest to many of them, and its label decides for all.)
- `copies`: is a generated image nearer to the training set, relative to the held-out set, than images that are not
  copies? Those are held-out images, and training images compared with the rest of the training set.
- `data_copying`: are generated images nearer to the training set than held-out images are? (Meehan et al. 2020)
"""

from typing import NamedTuple

import numpy as np
import scipy.stats

from genimg_jax.metrics.arrays import feature_sets
from genimg_jax.metrics.neighbours import nearest, nearest_within
from genimg_jax.metrics.pairs import BLOCK

# The share of images that are not copies but may look like copies: those that the data itself holds twice, or nearly.
NULL_RATE = 0.001
SURE = 0.001  # p-value below which an audit says that training images are repeated
NULLS = 10_000  # training images, at most, that are compared with the other training images
PAIRS = 10


class Preference(NamedTuple):
    """Of generated images, the share whose nearest real image was trained on; its expectation, standard deviations
    above it and one-sided p-value if labels mean nothing."""

    share: float
    expected: float
    z: float
    p_value: float


class Copies(NamedTuple):
    """Generated images whose distance to the training set, over that to the held-out set, is at most `threshold`: their
    share, the share expected of images that are not copied, and the one-sided p-value of the excess."""

    rate: float
    null_rate: float
    threshold: float
    p_value: float
    detectable: float
    """The smallest share whose p-value is below `SURE`; above 1 where there are too few images for any to be."""


class NullDistances(NamedTuple):
    """Distances to the training set of images that are not copies: the part of an audit without a generator."""

    distances: np.ndarray
    """f32[H], of held-out images to the training set"""
    held_out: np.ndarray
    """f64[H], those over the distance to the rest of the held-out set"""
    train: np.ndarray
    """f64[T], of training images to the rest of the training set, over that to the held-out set"""


class Pair(NamedTuple):
    """A generated image and its nearest training image; `ratio` is their distance over that to the nearest held-out."""

    generated: int
    train: int
    distance: float
    ratio: float


class Audit(NamedTuple):
    nearer_to_train: Preference
    copies: Copies
    data_copying: float
    """Standard normal under the null; well below 0 where generated images are nearer to the training set than held-out
    images are, well above where they are further away, as those of a poor generator are."""
    closest: list[Pair]
    """The pairs with the smallest ratios, in ascending order, for a person to look at."""


def preference(to_train: np.ndarray, owners: np.ndarray, train: int, held_out: int) -> Preference:  # bool[N], i64[N]
    """The permutation test, in closed form up to a normal approximation.

    `to_train` says whether the nearest pooled image of each generated one was trained on, `owners` which image it is.
    With c(z) generated images nearest to pooled image z, the statistic is the sum of c over a random `train` of the
    pooled images: its mean and variance are those of sampling without replacement.
    """
    pooled = train + held_out
    counts = np.bincount(owners, minlength=pooled)
    expected = train / pooled
    variance = train * held_out / (pooled - 1) * np.var(counts)
    z = (to_train.sum() - expected * len(to_train)) / np.sqrt(variance) if variance else 0.0
    return Preference(float(to_train.mean()), expected, float(z), float(scipy.stats.norm.sf(z)))


def copies(ratios: np.ndarray, held_out_ratios: np.ndarray, train_ratios: np.ndarray) -> Copies:  # [N], [H], [T]
    """The threshold is an order statistic of the ratios of images that are not copied. A further ratio falls below the
    j-th of K with probability j / (K + 1), and the number of N that do is beta-binomial, for any distribution.

    Two nearly equal training images are each other's nearest, so each of them counts as half an image. Where ratios tie
    with the threshold, as those of duplicates do at 0, one more null image is assumed there, which is conservative.
    """
    null = np.concatenate([held_out_ratios, train_ratios])
    weights = np.repeat([1.0, 0.5], [len(held_out_ratios), len(train_ratios)])
    threshold = np.sort(null)[max(int(NULL_RATE * (weights.sum() + 1)), 1) - 1]
    rank = np.ceil(weights[null <= threshold].sum()) + np.any(ratios == threshold)
    # Where everything ties, nothing can lie above.
    below, null_above = int(np.sum(ratios <= threshold)), max(weights.sum() + 1 - rank, 1e-9)
    expected = scipy.stats.betabinom(len(ratios), rank, null_above)
    return Copies(
        rate=below / len(ratios),
        null_rate=float(rank / (rank + null_above)),
        threshold=float(threshold),
        p_value=float(expected.sf(below - 1)),
        detectable=float(expected.isf(SURE) + 1) / len(ratios),
    )


def data_copying(generated_to_train: np.ndarray, held_out_to_train: np.ndarray) -> float:  # [N], [H] -> f64[]
    """The Mann-Whitney statistic, standardised (Meehan et al. 2020, section 3, over one cell)."""
    return float(scipy.stats.ranksums(generated_to_train, held_out_to_train).statistic)


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:  # [N], [N] -> f64[N]: 1 where both are 0
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(above == below, 1.0, above / below)


def null_distances(
    train: np.ndarray, held_out: np.ndarray, seed: int = 0, block: int = BLOCK
) -> NullDistances:  # [M, D], [H, D]
    """The seed chooses `NULLS` training images where there are more."""
    train, held_out = feature_sets(train=train, held_out=held_out)
    near = nearest(held_out, train, 1, block).distances[:, 0]
    far = nearest_within(held_out, 1, block).distances[:, 0]
    chosen = train[np.sort(np.random.default_rng(seed).permutation(len(train))[:NULLS])]
    train_near = nearest(chosen, train, 2, block).distances[:, 1]  # itself comes first
    train_far = nearest(chosen, held_out, 1, block).distances[:, 0]
    return NullDistances(near, _ratio(near, far), _ratio(train_near, train_far))


def audit(
    generated: np.ndarray,
    train: np.ndarray,
    held_out: np.ndarray,
    seed: int = 0,
    block: int = BLOCK,
    null: NullDistances | None = None,
) -> Audit:
    """Compare generated [N, D] with training [M, D] and held-out features [H, D] of the same kind of images.

    M and H may differ: every statistic is calibrated for that. The training set should be complete: copies of an image
    that it lacks go undetected. Held-out images must not have been used for any choice. The seed tosses a coin for
    generated images equally near to both sets, as images of few grey levels can be. `null` is
    `null_distances(train, held_out, seed)`; give it to compute it once for several generated sets.
    """
    generated, train, held_out = feature_sets(generated=generated, train=train, held_out=held_out)
    to_train, to_held_out = nearest(generated, train, 1, block), nearest(generated, held_out, 1, block)
    near, far = to_train.distances[:, 0], to_held_out.distances[:, 0]
    null = null or null_distances(train, held_out, seed, block)
    ratios = _ratio(near, far)
    trained = (near < far) | ((near == far) & (np.random.default_rng(seed).random(len(near)) < 0.5))
    owners = np.where(trained, to_train.indices[:, 0], len(train) + to_held_out.indices[:, 0])
    order = np.argsort(ratios, kind="stable")[:PAIRS]
    return Audit(
        preference(trained, owners, len(train), len(held_out)),
        copies(ratios, null.held_out, null.train),
        data_copying(near, null.distances),
        [Pair(int(i), int(to_train.indices[i, 0]), float(near[i]), float(ratios[i])) for i in order],
    )
