"""Scores from choices between two (Bradley and Terry 1952), for human evaluation."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from genimg_jax.errors import DataError
from genimg_jax.metrics.intervals import Interval, normal, student


class Preferences(NamedTuple):
    """Scores that sum to 0; the odds that i is preferred to j are exp(score i - score j)."""

    names: list[str]
    scores: list[Interval]
    covariance: np.ndarray
    """f64[K, K] of the scores, if answers are independent; a difference has variance c[i, i] + c[j, j] - 2 c[i, j]."""
    between_raters: np.ndarray | None
    """f64[K, K] by the spread between raters; None where they are not known."""
    freedom: float
    """Degrees of freedom of that spread: the number of raters less 1, and infinite where they are not known."""


def _fit(design: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:  # f64[N, K - 1] -> [K - 1], [N], [N]
    """Newton's method on Firth's penalised likelihood; rows are winner less loser.

    The penalty (Firth 1993) takes the bias of order 1/N off and keeps scores finite where one always wins (Heinze and
    Schemper 2002). Also each row's weight in the information, and its residual.
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
            return scores, weight, residual
    raise DataError("the Bradley-Terry fit did not converge; are almost all comparisons of the same two?")


def _compared(first: np.ndarray, second: np.ndarray, names: int) -> np.ndarray:  # i64[N], i64[N] -> i64[K, K]
    """How often each name was preferred to each."""
    return np.bincount(first * names + second, minlength=names**2).reshape(names, names)


def _groups(compared: np.ndarray) -> np.ndarray:  # [K, K] -> i32[K]
    """The number of each name's connected group of comparisons: all 0 where every name is connected."""
    return connected_components(compared, directed=False)[1]


def bradley_terry(
    winners: Sequence[str], losers: Sequence[str], raters: Sequence[str] | None = None, level: float = 0.95
) -> Preferences:
    """Fit scores to comparisons, one a row; leave out ties, attention checks, and raters who failed those.

    Give `raters`, a name a row, whenever one person answered more than once: their answers are alike. An interval is
    then the wider of two: that of independent answers, and Student's from the spread between raters, the jackknife that
    leaves out one rater at a time (Bell and McCaffrey 2002), to first order. The spread alone covers as it says with
    two raters already, but is 0 if they happen to agree. Few raters make intervals wide, not wrong; raters who give
    very different numbers of answers make them narrow: of 200, 40, 20, 20 and 20 they cover 92 %. Raises `DataError`
    where two groups of names were never compared, or by one rater only, since nothing tells how they stand.
    """
    if not len(winners) == len(losers) or (raters is not None and len(raters) != len(winners)) or not len(winners):
        raise DataError("winners, losers and raters must be lists of one length, with a comparison at least.")
    names = sorted({*winners, *losers})
    place = {name: i for i, name in enumerate(names)}
    first, second = np.array([place[w] for w in winners]), np.array([place[name] for name in losers])
    if np.any(first == second):
        raise DataError(f"{names[first[np.argmax(first == second)]]!r} is compared with itself; leave such rows out.")
    compared = _compared(first, second, len(names))
    member = _groups(compared)
    if member.any():
        parts = [", ".join(n for n, m in zip(names, member, strict=True) if m == g) for g in range(member.max() + 1)]
        raise DataError(f"nobody compared any of ({') with any of ('.join(parts)}); ask for such comparisons.")
    rows = np.arange(len(first))
    full = np.zeros((len(first), len(names)))
    full[rows, first], full[rows, second] = 1, -1
    # Any basis of the scores that sum to 0 serves; this one is orthonormal.
    basis = np.linalg.svd(np.ones((1, len(names))))[2][1:].T
    design = full @ basis
    scores, weight, residual = _fit(design)
    information = design.T @ (weight[:, None] * design)
    between, freedom = None, np.inf
    if raters is not None:
        who, owner = np.unique(np.asarray(raters), return_inverse=True)
        if len(who) < 2:
            raise DataError("one rater alone says nothing about others; leave `raters` out to describe that rater.")
        answers = np.split(np.argsort(owner, kind="stable"), np.cumsum(np.bincount(owner))[:-1])
        changes = []
        for rater, of_rater in zip(who, answers, strict=True):
            if _groups(compared - _compared(first[of_rater], second[of_rater], len(names))).any():
                raise DataError(f"only rater {rater} connects all that was compared; ask others for such comparisons.")
            remaining = information - design[of_rater].T @ (weight[of_rater, None] * design[of_rater])
            changes.append(np.linalg.solve(remaining, residual[of_rater] @ design[of_rater]))
        freedom = len(who) - 1
        changes = np.stack(changes) @ basis.T
        between = changes.T @ changes * (freedom / len(who))
    covariance = basis @ np.linalg.inv(information) @ basis.T
    preferences = Preferences(names, [], covariance, between, freedom)
    scores = basis @ scores
    return preferences._replace(
        scores=[_interval(preferences, score, np.eye(len(names))[i], level) for i, score in enumerate(scores)]
    )


def _interval(preferences: Preferences, estimate: float, direction: np.ndarray, level: float) -> Interval:  # f64[K]
    """The wider of the two intervals for one linear combination of the scores."""
    alone = normal(estimate, np.sqrt(direction @ preferences.covariance @ direction), level)
    if preferences.between_raters is None:
        return alone
    spread = student(estimate, np.sqrt(direction @ preferences.between_raters @ direction), preferences.freedom, level)
    return max(alone, spread, key=lambda interval: interval.high)


def score_difference(preferences: Preferences, first: str, second: str) -> Interval:
    """How far the first is ahead of the second, in log odds. The two scores' intervals do not give this interval, since
    the scores are correlated."""
    i, j = preferences.names.index(first), preferences.names.index(second)
    direction = np.eye(len(preferences.names))[i] - np.eye(len(preferences.names))[j]
    return _interval(
        preferences,
        preferences.scores[i].estimate - preferences.scores[j].estimate,
        direction,
        preferences.scores[i].level,
    )
