"""Scores of image sets, from the answers of raters."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from genimg_jax.errors import DataError
from genimg_jax.evaluation.human import NOISE, Answers
from genimg_jax.metrics import intervals
from genimg_jax.metrics.preferences import bradley_terry, score_difference


def missed(answers: Answers) -> tuple[int, int]:
    """How many attention checks a rater missed, and of how many: noise preferred, or rated above 2 of 5."""
    checks = [(t, g) for t, g in zip(answers.shown, answers.given, strict=True) if any(n == NOISE for n, _ in t)]
    wrong = [trial[answer][0] == NOISE if answers.mode == "choice" else answer > 2 for trial, answer in checks]
    return sum(wrong), len(checks)


def scores(answers: Sequence[Answers], keep_failed: bool = False, level: float = 0.95) -> dict[str, Any]:
    """The scores from the answers to one page, as values that JSON can hold.

    Of choices: Bradley-Terry scores, in log odds and summing to 0. Of ratings: each set's mean over raters. Intervals
    and differences are for the population that raters and images come from, by the spread between raters: few make them
    wide. With one rater alone they describe that rater. Raises `DataError` where every rater missed too many checks.
    """
    raters = []
    for rater_answers in answers:
        wrong, checks = missed(rater_answers)
        passed = wrong <= rater_answers.misses_allowed
        seconds = float(np.median(rater_answers.milliseconds)) / 1000
        raters.append({"rater": rater_answers.rater, "checks": checks, "missed": wrong, "passed": passed,
                       "kept": passed or keep_failed, "median_seconds": seconds})  # fmt: skip
    included = [rater_answers for rater_answers, about in zip(answers, raters, strict=True) if about["kept"]]
    if not included:
        raise DataError(
            f"all {len(answers)} raters missed more attention checks than guessing allows; find new ones, or read them "
            "anyway with --keep_failed."
        )
    first = included[0]
    measured = _choices(included, level) if first.mode == "choice" else _ratings(included, level)
    return {
        "page": first.page,
        "mode": first.mode,
        "question": first.question,
        "level": level,
        "intervals": _basis(first, len(included)),
        **measured,
        "raters": raters,
    }


def _basis(first: Answers, raters: int) -> str:
    """How intervals were computed, in the words of a report."""
    if raters == 1:
        return f"of rater {first.rater!r} alone"
    narrower = ", never narrower than those of independent answers" if first.mode == "choice" else ""
    return f"by the spread between raters (Student's, {raters - 1} degrees of freedom){narrower}"


def _choices(included: Sequence[Answers], level: float) -> dict[str, Any]:
    winners, losers, raters, left_chosen = [], [], [], 0
    for answers in included:
        for trial, answer in zip(answers.shown, answers.given, strict=True):
            if NOISE not in (names := [name for name, _ in trial]):
                winners.append(names[answer])
                losers.append(names[1 - answer])
                raters.append(answers.rater)
                left_chosen += answer == 0
    fit = bradley_terry(winners, losers, raters if len(included) > 1 else None, level)
    placed = sorted(zip(fit.names, fit.scores, strict=True), key=lambda item: -item[1].estimate)
    share = {name: winners.count(name) / (winners.count(name) + losers.count(name)) for name in fit.names}
    return {
        "answers": len(winners),
        "left_chosen": left_chosen / len(winners),
        "scores": {name: {**_record(score), "preferred": share[name]} for name, score in placed},
        "differences": {
            f"{a} - {b}": _record(score_difference(fit, a, b))
            for a, b in itertools.combinations([name for name, _ in placed], 2)
        },
    }


def _ratings(included: Sequence[Answers], level: float) -> dict[str, Any]:
    def ratings(answers: Answers, name: str) -> list[int]:
        return [rating for trial, rating in zip(answers.shown, answers.given, strict=True) if trial[0][0] == name]

    alone, sets = len(included) == 1, included[0].sets
    values = {
        name: ratings(included[0], name) if alone else [np.mean(ratings(answers, name)) for answers in included]
        for name in sets
    }
    means = {name: intervals.mean(np.array(values[name]), level) for name in sets}
    placed = sorted(sets, key=lambda name: -means[name].estimate)
    # One rater's ratings of two sets are not paired, those of several raters are.
    pairs = [] if alone else itertools.combinations(placed, 2)
    return {
        "answers": sum(len(ratings(answers, name)) for answers in included for name in sets),
        "scores": {name: _record(means[name]) for name in placed},
        "differences": {
            f"{a} - {b}": _record(intervals.paired_difference(np.array(values[a]), np.array(values[b]), level))
            for a, b in pairs
        },
    }


def _record(interval: intervals.Interval) -> dict[str, float]:
    return {"value": interval.estimate, "interval": [interval.low, interval.high]}


def text(report: Mapping[str, Any]) -> str:
    """The scores for a terminal."""
    choice = report["mode"] == "choice"
    width = max(12, *map(len, [*report["scores"], *report["differences"]]))
    percent = f"{100 * report['level']:g} % interval"
    lines = [report["question"], "", f"{'set':{width}} {'score' if choice else 'rating':>8}  {percent:18}"]
    lines[-1] += " preferred" if choice else ""
    for name, entry in report["scores"].items():
        preferred = f" {entry['preferred']:8.0%}" if choice else ""
        lines.append(f"{name:{width}} {_numbers(entry)}{preferred}")
    lines += ["", "difference"] * bool(report["differences"])
    lines += [f"{name:{width}} {_numbers(entry)}" for name, entry in report["differences"].items()]
    kept = sum(rater["kept"] for rater in report["raters"])
    lines += ["", f"{report['answers']} answers of {kept} raters; intervals {report['intervals']}"]
    if choice:
        lines[-1] += f"; the left image was chosen in {report['left_chosen']:.0%}"
    for rater in report["raters"]:
        if not rater["passed"]:
            what = "kept all the same" if rater["kept"] else "left out"
            lines.append(f"{rater['rater']} missed {rater['missed']} of {rater['checks']} attention checks: {what}")
    return "\n".join(lines)


def _numbers(entry: Mapping[str, Any]) -> str:
    low, high = entry["interval"]
    return f"{entry['value']:8.3f}  {f'[{low:.3f}, {high:.3f}]':18}"
