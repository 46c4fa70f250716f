"""Whether a generator repeats its training images, has collapsed or diverged, is untrained or poor."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genimg_jax.engine import images
from genimg_jax.evaluation import image_sets
from genimg_jax.evaluation.image_sets import ImageSet
from genimg_jax.metrics import collapse
from genimg_jax.metrics.collapse import COLLAPSED, SUSPICIOUS, Finding, Verdict
from genimg_jax.metrics.memorisation import NULL_RATE, NULLS, PAIRS, SURE, Audit


def sentence(result: Audit) -> str:
    copies, nearer = result.copies, result.nearer_to_train
    signs = [
        "copies of training images" * (copies.p_value < SURE),
        "images nearer to the training set than chance has it" * (nearer.p_value < SURE),
    ]
    shown = " and ".join(filter(None, signs)) or "no sign of it"
    needed = f"from {copies.detectable:.2%} on" if copies.detectable <= 1 else "of more images"
    return (
        f"{shown} at p below {SURE}; {copies.rate:.2%} look like copies, and {copies.null_rate:.2%} would of images "
        f"that are not copied (p {copies.p_value:.2g}; {needed} it would be a sign); {nearer.share:.1%} are nearest to "
        f"a training image, {nearer.expected:.1%} by chance (p {nearer.p_value:.2g}); data copying z "
        f"{result.data_copying:.1f}."
    )


def record(result: Audit) -> dict[str, Any]:
    """The audit as a report holds it."""
    closest = [pair._asdict() for pair in result.closest]
    return {"sentence": sentence(result), **result._asdict(), "closest": closest}


def protocol(train: ImageSet) -> dict[str, Any]:
    """What the audit's figures depend on besides features, generated and held-out images."""
    count = len(train.images)
    return {
        "train": f"{train.name} {train.split}",
        "train images": count,
        "null rate": NULL_RATE,
        "training images that are held against the others": min(count, NULLS),
    }


def picture(result: Audit, generated: ImageSet, train: ImageSet) -> np.ndarray:  # -> u8[rows, columns, C]
    """The `PAIRS` generated images with the smallest ratios, each above its nearest training image."""
    rows = [generated.images[[p.generated for p in result.closest]], train.images[[p.train for p in result.closest]]]
    grey = np.round(np.concatenate(rows) * np.float32(255 / (generated.levels - 1))).astype(np.uint8)
    return images.grid(grey, min(PAIRS, len(result.closest)))


def independent_pixels(images: ImageSet, count: int, seed: int) -> ImageSet:
    """`count` images whose every pixel is taken from a random one of these images, at the same place: each pixel
    has its true distribution, independently of the others."""
    height, width = images.images.shape[1:3]
    pool = image_sets.fitting(images, seed)
    chosen = np.random.default_rng(seed).integers(len(pool), size=(count, height, width))
    pixels = pool[chosen, np.arange(height)[:, None], np.arange(width)]
    return images._replace(images=pixels, labels=None, captions=None, masks=None)


def verdict(
    generated: ImageSet,
    features: Mapping[str, tuple[np.ndarray, np.ndarray, np.ndarray]],
    read: tuple[np.ndarray, np.ndarray, int] | None,
    history: Sequence[Mapping[str, Any]],
    log_odds: Sequence[tuple[str, str]],
    seed: int,
) -> Verdict:
    """`features` are those of generated images, of the reference and of its `independent_pixels`, by name; `read` the
    classes read in either set and how many there are; `history` the lines of metrics.jsonl, and `log_odds` the
    family's."""
    findings = []
    if generated.not_finite:
        share = generated.not_finite / len(generated.images)
        status = COLLAPSED if share > 0.1 else SUSPICIOUS
        findings.append(
            Finding("images", status, share, 0.0, f"{share:.1%} of the images hold values that are no number.")
        )
    for name, (ours, theirs, independent) in features.items():
        diversity = collapse.diversity_findings(ours, theirs, seed)
        for finding in [*diversity, *collapse.quality_findings(ours, theirs, independent, seed)]:
            worded = f"{finding.sentence.removesuffix('.')} ({name})."
            findings.append(finding._replace(name=f"{finding.name}/{name}", sentence=worded))
    if read:
        findings += collapse.class_findings(*read, generated.classes)
    trained = [_numbers(line) for line in history if line.get("split") == "train"]
    if trained:
        findings += collapse.history_findings(trained, log_odds)
    return collapse.verdict(findings)


def _numbers(line: Mapping[str, Any]) -> dict[str, float | None]:
    """The metrics of a line. Values that are not finite, which the line holds as words, become None."""
    metrics = {k: v for k, v in line.items() if k not in ("split", "step", "images", "images_per_second")}
    values = {k: float(v) for k, v in metrics.items()}
    return {k: v if math.isfinite(v) else None for k, v in values.items()}
