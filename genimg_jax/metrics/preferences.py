"""Scores from choices between two (Bradley and Terry 1952), for human evaluation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from genimg_jax.errors import DataError
from genimg_jax.metrics.intervals import Interval, student


class Preferences(NamedTuple):
    """Scores that sum to 0; the odds that i is preferred to j are exp(score i - score j)."""

    names: list[str]
    scores: list[Interval]
    covariance: np.ndarray
    """f64[K, K] of the scores: a difference has variance c[i, i] + c[j, j] - 2 c[i, j]."""
    freedom: float
    """Degrees of freedom of Student's intervals: infinite without raters, else their number less 1."""


def _fit(design: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # f64[N, K - 1] -> [K - 1], [K - 1]^2, [N]
    """Newton's method on Firth's penalised likelihood; rows are winner less loser.

    The penalty (Firth 1993) takes the bias of order 1/N off and keeps scores finite where one always wins (Heinze and
    Schemper 2002). Also the inverse information, and each row's residual.
    """
    scores = np.zeros(design.shape[1])
    for _ in range(100):
        probability = expit(design @ scores)
        weight = probability * (1 - probability)
        inverse = np.linalg.inv(design.T @ (weight[:, None] * design))
        leverage = weight * np.einsum("ni,ij,nj->n", design, inverse, design)
        residual = 1 - probability + leverage * (0.5 - probability)
        change = inverse @ (design.T @ residual)
        # A full step can run away while the information is still small.
        scores = scores + change / max(1, np.abs(change).max())
        if np.abs(change).max() < 1e-10:
            return scores, inverse, residual
    raise DataError("the Bradley-Terry fit did not converge; are almost all comparisons of the same two?")


def bradley_terry(
    winners: Sequence[str], losers: Sequence[str], raters: Sequence[str] | None = None, level: float = 0.95
) -> Preferences:
    """Fit scores to comparisons, one a row; leave out ties, attention checks, and raters who failed those.

    Give `raters`, a name a row, whenever one person answered more than once: their answers are alike, and the
    intervals come from the spread between raters (Liang and Zeger 1986), of whom there should be 15 or more. Raises
    `DataError` where two groups of names were never compared, since nothing tells how they stand.
    """
    if not len(winners) == len(losers) or (raters is not None and len(raters) != len(winners)) or not len(winners):
        raise DataError("winners, losers and raters must be lists of one length, with a comparison at least.")
    names = sorted({*winners, *losers})
    place = {name: i for i, name in enumerate(names)}
    first, second = np.array([place[w] for w in winners]), np.array([place[name] for name in losers])
    if np.any(first == second):
        raise DataError(f"{names[first[np.argmax(first == second)]]!r} is compared with itself; leave such rows out.")
    graph = np.zeros((len(names), len(names)))
    graph[first, second] = 1
    groups, member = connected_components(graph, directed=False)
    if groups > 1:
        parts = [", ".join(n for n, m in zip(names, member, strict=True) if m == g) for g in range(groups)]
        raise DataError(f"nobody compared any of ({') with any of ('.join(parts)}); ask for such comparisons.")
    rows = np.arange(len(first))
    full = np.zeros((len(first), len(names)))
    full[rows, first], full[rows, second] = 1, -1
    # Any basis of the scores that sum to 0 serves; this one is orthonormal.
    basis = np.linalg.svd(np.ones((1, len(names))))[2][1:].T
    design = full @ basis
    scores, covariance, residual = _fit(design)
    freedom = np.inf
    if raters is not None:
        who, row_of = np.unique(np.asarray(raters), return_inverse=True)
        if len(who) < 2:
            raise DataError("one rater alone says nothing about others; leave `raters` out to describe that rater.")
        sums = np.zeros((len(who), design.shape[1]))
        np.add.at(sums, row_of, residual[:, None] * design)
        freedom = len(who) - 1
        covariance = covariance @ (sums.T @ sums) @ covariance * (len(who) / freedom)
    scores, covariance = basis @ scores, basis @ covariance @ basis.T
    errors = np.sqrt(np.diag(covariance))
    intervals = [student(score, error, freedom, level) for score, error in zip(scores, errors, strict=True)]
    return Preferences(names, intervals, covariance, freedom)


def score_difference(found: Preferences, first: str, second: str) -> Interval:
    """How far the first is ahead of the second, in log odds: not to be read off the two scores' intervals, since the
    scores are correlated."""
    i, j = found.names.index(first), found.names.index(second)
    c, level = found.covariance, found.scores[i].level
    error = np.sqrt(c[i, i] + c[j, j] - 2 * c[i, j])
    return student(found.scores[i].estimate - found.scores[j].estimate, error, found.freedom, level)
