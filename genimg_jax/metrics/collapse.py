"""Has a run collapsed or diverged, is it untrained, is it poor? Each finding gives its evidence; the verdict is the
worst of them.

The thresholds are judgements, not tests of significance, which any generator fails with enough samples: they are set
so that a fair model of its data passes, and a person would call what fails them broken.

`untrained or poor` means that one of three holds in pixels or in a learned feature space. Each is measured on at most
300 images a set, since precision and coverage depend on how many there are:

- few generated images lie where real ones do: precision is surely less than a fifth of the way from that of
  independent pixels (each pixel is taken from a random real image) to that of real images;
- few real images have a generated one near: the same of coverage;
- the kernel distance to the data is surely more than a tenth of that of one real image repeated.

"Surely" refers to 95 % intervals. Real images are scored against each other, so no further ones are needed. Precision
or coverage of real images that is not at least 0.2 above that of independent pixels tells nothing and is left out.
`experiments/verdict_rates.py` measures how often the verdict is wrong.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from genimg_jax.errors import DataError
from genimg_jax.metrics import intervals
from genimg_jax.metrics.arrays import feature_sets
from genimg_jax.metrics.classifier_tests import class_balance, proportion
from genimg_jax.metrics.neighbours import nearest_within
from genimg_jax.metrics.pair_scores import SelfSimilarity, pair_scores, self_similarity
from genimg_jax.metrics.pairs import BLOCK, centre

HEALTHY, SUSPICIOUS, POOR, COLLAPSED = STATUSES = ("healthy", "suspicious", "untrained or poor", "collapsed")

# Nearer than this fraction of the data's median nearest distance, two images are one.
DUPLICATE = 0.25
# A class is missing when it surely has less than this fraction of its share in the data.
MISSING = 0.1
# Quality: images of each set, neighbours of precision and coverage, and the three thresholds explained above.
JUDGED = 300
NEIGHBOURS = 5
LEARNED = 0.2
APART = 0.2
TOO_FAR = 0.1
# Log odds of real over generated at which a discriminator errs once in ten thousand.
WON = 9.2


class Finding(NamedTuple):
    name: str
    status: str
    value: float
    expected: float
    """The value of a generator as good as the data."""
    sentence: str


class Verdict(NamedTuple):
    status: str
    findings: list[Finding]


def _status(badness: float, suspicious: float, collapsed: float) -> str:
    return (HEALTHY, SUSPICIOUS, COLLAPSED)[int(badness >= suspicious) + int(badness >= collapsed)]


def verdict(findings: Sequence[Finding]) -> Verdict:
    """The worst status, and the findings, worst first."""
    ordered = sorted(findings, key=lambda finding: -STATUSES.index(finding.status))
    return Verdict(ordered[0].status if ordered else HEALTHY, ordered)


def class_findings(
    predictions: np.ndarray, reference: np.ndarray, classes: int, names: Sequence[str] = ()
) -> list[Finding]:  # i[N], i[M]
    """Modes that a classifier can tell apart, from its predictions for generated and for reference images. Without
    `names`, classes are called by their numbers."""
    balance = class_balance(predictions, reference, classes)
    present = np.flatnonzero(balance.expected > 0)
    upper = [proportion(round(balance.shares[c] * len(predictions)), len(predictions)).high for c in present]
    missing = [int(c) for c, high in zip(present, upper, strict=True) if high < MISSING * balance.expected[c]]
    num_generated = len(present) - len(missing)
    listed = f"; missing: {', '.join(names[c] if names else str(c) for c in missing)}" if missing else ""
    variation = balance.total_variation
    beyond_chance = np.sqrt(max(variation**2 - balance.chance**2, 0.0))
    return [
        Finding(
            "modes",
            _status(len(missing) / len(present), 1e-9, 0.5),
            num_generated,
            len(present),
            f"{num_generated} of the data's {len(present)} classes are generated{listed}.",
        ),
        Finding(
            "class histogram",
            # Chance alone moves a histogram of few samples far; independent differences add in squares.
            HEALTHY if balance.p_value > 1e-3 else _status(beyond_chance, 0.15, 0.5),
            variation,
            0.0,
            f"{variation:.0%} of the images would have to change class to match the data (p {balance.p_value:.2g}).",
        ),
    ]


def _subset(features: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:  # [N, D] -> [count, D]
    """Random rows in their order; the array itself, not a copy, if they are all."""
    chosen = np.sort(rng.permutation(len(features))[:count])
    return features if count == len(features) else features[chosen]


def _total_variance(features: np.ndarray) -> float:  # [N, D]
    """The sum of the features' variances, a block of rows at a time: float64 of all would be twice their memory."""
    middle = centre(features)
    blocks = np.array_split(features, -(-len(features) // BLOCK))
    return sum(np.square(block - middle).sum() for block in blocks) / len(features)


def diversity_findings(
    generated: np.ndarray, reference: np.ndarray, seed: int = 0, block: int = BLOCK
) -> list[Finding]:  # [N, D], [M, D]
    """Repetition and spread of generated features, beside as many reference features, drawn by the seed."""
    generated, reference = feature_sets(least=3, generated=generated, reference=reference)
    if not (reference != reference[0]).any():
        raise DataError("the reference features do not vary at all; nothing can be told from them.")
    rng, count = np.random.default_rng(seed), min(len(generated), len(reference))
    ours, data = (_subset(features, count, rng) for features in (generated, reference))
    near, data_near = (nearest_within(features, 1, block).distances[:, 0] for features in (ours, data))
    bound = DUPLICATE * np.median(data_near)
    rate, data_rate = np.mean(near <= bound), np.mean(data_near <= bound)
    spread = float(_total_variance(ours) / _total_variance(data))
    return [
        Finding(
            "duplicates",
            _status(rate - data_rate, 0.05, 0.5),
            float(rate),
            float(data_rate),
            f"{rate:.1%} of {count} generated images have a near copy among them, and {data_rate:.1%} of the data's.",
        ),
        Finding(
            "spread",
            _status(-spread, -0.5, -0.1),
            spread,
            1.0,
            f"The features vary {spread:.2f} times as much as the data's.",
        ),
    ]


MEANING = {
    "precision": "of the generated images lie where real images do",
    "coverage": "of the real images have a generated one near",
}


def quality_findings(
    generated: np.ndarray, reference: np.ndarray, independent: np.ndarray, seed: int = 0, block: int = BLOCK
) -> list[Finding]:  # [N, D], [M, D], [L, D]
    """Precision, coverage and kernel distance of generated features, beside those of real images and of images of
    `independent` pixels, on equally many of each set, drawn by the seed."""
    sets = feature_sets(least=4, generated=generated, reference=reference, independent=independent)
    rng, count = np.random.default_rng(seed), min(JUDGED, *map(len, sets))
    ours, data, noise = (_subset(features, count, rng) for features in sets)
    k = min(NEIGHBOURS, count - 1)
    pairs = self_similarity(data, k, block)
    distance, (scores,) = pair_scores(ours, data, [k], pairs, block=block)
    noise_distance, (noise_scores,) = pair_scores(noise, data, [k], pairs, block=block)
    findings = []
    for name, real in _of_real_images(pairs, k).items():
        value, lowest = getattr(scores, name), getattr(noise_scores, name)
        if real - lowest < APART:
            continue
        upper = proportion(round(value * count), count).high
        status = POOR if upper < lowest + LEARNED * (real - lowest) else HEALTHY
        sentence = (
            f"{value:.0%} {MEANING[name]} ({name} {value:.2f}); independent pixels have {lowest:.2f}, real images "
            f"{real:.2f}."
        )
        findings.append(Finding(name, status, value, real, sentence))
    # One real image x, repeated, is at a distance of k(x, x) - 2 E k(x, y) + E k(y, y') from the data; its mean over x.
    repeated = float(pairs.kernel.diagonal.mean() - pairs.kernel.means.mean())
    lower = intervals.kernel_interval(distance).low
    share, noise_share = distance.estimate / repeated, noise_distance.estimate / repeated
    sentence = (
        f"The kernel distance to the data is {share:.3f} of that of one real image repeated; independent pixels have "
        f"{noise_share:.3f}."
    )
    return [*findings, Finding("distance", POOR if lower > TOO_FAR * repeated else HEALTHY, share, 0.0, sentence)]


def _of_real_images(pairs: SelfSimilarity, k: int) -> dict[str, float]:
    """Expected scores of a perfect generator of as many images. Precision is measured on real images among the others:
    an image is inside a ball if it is one of the k nearest of another. Coverage is the one that Naeem et al. 2020
    derive, the same for every distribution."""
    count, ranks = len(pairs.neighbours.indices), np.arange(1, k + 1)
    precision = np.mean(np.bincount(pairs.neighbours.indices[:, :k].ravel(), minlength=count) > 0)
    coverage = 1 - np.prod((count - ranks) / (2 * count - ranks))
    return {"precision": float(precision), "coverage": float(coverage)}


def _values(history: Sequence[Mapping[str, float | None]], name: str) -> np.ndarray:  # -> f64[records with the name]
    """The values of one metric, in order. None, which stands for a value that is not finite, becomes NaN."""
    values = [record[name] for record in history if name in record]
    return np.array([np.nan if value is None else value for value in values], np.float64)


def history_findings(
    history: Sequence[Mapping[str, float | None]], log_odds: Sequence[tuple[str, str]] = ()
) -> list[Finding]:
    """What the training metrics tell: records {name: value} in order of steps, of the training split alone.

    Looks for values that are not finite, steps skipped for it (`skipped/<group>`), a `loss` that ends above where it
    began, and a discriminator that tells real images from generated ones too well: `log_odds` are the names of its
    mean log odds of either, a pair for each discriminator. Outputs of other losses, such as Wasserstein's, have no
    scale and are not named.
    """
    names = sorted({name for record in history for name, value in record.items() if not isinstance(value, str)})
    series = {name: _values(history, name) for name in names}
    broken = [name for name, values in series.items() if not np.isfinite(values).all()]
    ends_broken = [name for name in broken if not np.isfinite(series[name][-1])]
    listed = ", ".join(broken) if broken else "none"
    findings = [
        Finding(
            "finite",
            COLLAPSED if ends_broken else SUSPICIOUS if broken else HEALTHY,
            len(broken),
            0,
            f"Metrics that were not finite: {listed}{' (some to the end)' if ends_broken else ''}.",
        )
    ]
    skipped = [np.nanmean(values) for name, values in series.items() if name.startswith("skipped/")]
    if skipped:
        worst = float(max(skipped))
        sentence = f"{worst:.1%} of the steps were skipped, their gradients not finite."
        findings.append(Finding("skipped steps", _status(worst, 0.001, 0.1), worst, 0.0, sentence))
    last = slice(-max(len(history) // 4, 1), None)
    if "loss" in series and len(series["loss"]) > 1:
        first, final = float(series["loss"][0]), float(np.median(series["loss"][last]))
        status = HEALTHY if final <= first else SUSPICIOUS
        findings.append(
            Finding("loss", status, final, first, f"The loss began at {first:.4g} and ended at {final:.4g}.")
        )
    pairs = [(series[real], series[fake]) for real, fake in log_odds if {real, fake} <= series.keys()]
    if pairs:
        gap = max(float(np.median(real[last] - fake[last])) for real, fake in pairs)
        sentence = f"The discriminator's log odds of real and generated images ended {gap:.1f} nats apart."
        findings.append(Finding("discriminator", SUSPICIOUS if gap > WON else HEALTHY, gap, 0.0, sentence))
    return findings
