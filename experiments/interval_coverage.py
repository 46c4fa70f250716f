"""How often does each kind of interval that is printed as 95 % hold what it estimates?

`python experiments/interval_coverage.py` simulates every kind over sizes, skew, heavy tails and ties, where the true
value is known, and writes `results/interval_coverage.md`. `tests/test_metrics_coverage.py` repeats it.
"""

import pathlib
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import scipy.stats
from scipy.special import softmax

from genimg_jax.metrics import classifier_tests, intervals
from genimg_jax.metrics.diversity import inception_score
from genimg_jax.metrics.frechet import Moments, frechet_distance
from genimg_jax.metrics.intervals import Interval
from genimg_jax.metrics.kernel import kernel_distance
from genimg_jax.metrics.preferences import bradley_terry, score_difference

RESULT = pathlib.Path(__file__).parent / "results" / "interval_coverage.md"
Trial = Callable[[np.random.Generator], tuple[Interval, float]]
"""Draws a data set; returns its interval and the true value."""


class Case(NamedTuple):
    name: str
    trial: Trial
    repetitions: int


class Row(NamedTuple):
    kind: str
    case: str
    repetitions: int
    coverage: float
    above: float  # share of repetitions whose interval lies below the true value
    below: float


def coverage(kind: str, case: Case, repetitions: int | None = None, seed: int = 0) -> Row:
    """Simulates one case; other cases draw other numbers from the same seed."""
    rng = np.random.default_rng([seed, *map(ord, case.name)])
    count = repetitions or case.repetitions
    drawn = [case.trial(rng) for _ in range(count)]
    above = np.mean([true > interval.high for interval, true in drawn])
    below = np.mean([true < interval.low for interval, true in drawn])
    return Row(kind, case.name, count, float(1 - above - below), float(above), float(below))


POPULATIONS = {
    "normal": scipy.stats.norm(),
    "exponential": scipy.stats.expon(),
    "log-normal": scipy.stats.lognorm(1),
    "Student, 5 degrees of freedom": scipy.stats.t(5),
    "0 or 1, tied": scipy.stats.bernoulli(0.3),
}


def standardized(name: str, rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Independent values of mean 0 and variance 1."""
    population = POPULATIONS[name]
    return (population.rvs(shape, random_state=rng) - population.mean()) / population.std()


# ------------------------------------------------------------------------------------------------ means and shares


def means() -> list[Case]:
    """Likelihoods, overlaps, ratings, seeds of a sweep and their paired differences."""

    def case(name: str, count: int) -> Case:
        return Case(f"{name}, N = {count}", lambda rng: (intervals.mean(standardized(name, rng, (count,))), 0.0), 2000)

    seeds = [case("normal", count) for count in (2, 3, 5)]
    return seeds + [case(name, count) for name in POPULATIONS for count in (20, 300, 3000)]


def shares() -> list[Case]:
    """Accuracies, also of one class, and attributes of scenes."""

    def case(true: float, count: int) -> Case:
        def trial(rng):
            return classifier_tests.proportion(rng.binomial(count, true), count), true

        return Case(f"p = {true}, N = {count}", trial, 2000)

    return [case(true, count) for true in (0.5, 0.9, 0.98) for count in (30, 300, 3000)]


def paired_accuracies() -> list[Case]:
    """GAN-train less its control: shares of test images that only one of the two classifiers reads right."""

    def case(first: float, second: float, count: int) -> Case:
        def trial(rng):
            which = rng.choice(3, count, p=(first, second, 1 - first - second))
            right = [(which != other).astype(int) for other in (1, 0)]
            return classifier_tests.accuracy_difference(*right, np.ones(count, int)), first - second

        return Case(f"{first} and {second} right alone, N = {count}", trial, 2000)

    alone = ((0.1, 0.05), (0.02, 0.02), (0.01, 0.002))
    return [case(*shares, count) for shares in alone for count in (100, 300, 3000)]


def independent_accuracies() -> list[Case]:
    """GAN-test less its control."""

    def case(first: float, second: float, n: int, m: int) -> Case:
        def trial(rng):
            found = (classifier_tests.proportion(rng.binomial(*one), one[0]) for one in ((n, first), (m, second)))
            return classifier_tests.independent_difference(*found), first - second

        return Case(f"p = {first} and {second}, N = {n}, M = {m}", trial, 2000)

    return [case(p, q, n, m) for p, q in ((0.9, 0.95), (0.98, 0.99)) for n, m in ((100, 300), (2000, 10_000))]


# ------------------------------------------------------------------------------------------- distances and scores


def frechet_distances() -> list[Case]:
    """The jackknife of 20 blocks: two populations with other means and covariances that do not commute."""

    def case(name: str, width: int, n: int, m: int) -> Case:
        fixed = np.random.default_rng(width)
        axes = np.linalg.qr(fixed.normal(size=(width, width)))[0]
        first = np.diag(np.linspace(0.5, 1.5, width))
        second = (np.eye(width) + (axes * np.linspace(-0.25, 0.25, width)) @ axes.T) @ first
        mean = 0.5 / np.sqrt(width)
        moments = [Moments(2, np.full(width, shift), root.T @ root) for shift, root in ((0, first), (mean, second))]
        true = frechet_distance(*moments)

        def trial(rng):
            x, y = (standardized(name, rng, (count, width)) for count in (n, m))
            return intervals.frechet_interval(x @ first, mean + y @ second), true

        return Case(f"{name}, D = {width}, N = {n}, M = {m}", trial, 1000)

    sizes = ((2, 200, 200), (8, 200, 200), (8, 300, 2000), (16, 600, 600))
    return [case(name, *size) for name in POPULATIONS for size in sizes]


def expected_kernel(first, second, width: int) -> float:
    """E k(x, y) - 1 of independent x and y, whose coordinates are independent and alike."""
    a, b, c = (first.moment(k) * second.moment(k) for k in (1, 2, 3))
    cube = c + 3 * (width - 1) * a * b + (width - 1) * (width - 2) * a**3
    return 3 * a + 3 * (b + (width - 1) * a**2) / width + cube / width**2


def kernel_distances() -> list[Case]:
    def case(name: str, first, second, width: int, n: int, m: int) -> Case:
        pairs = ((first, first), (second, second), (first, second))
        true = np.dot([1, 1, -2], [expected_kernel(*pair, width) for pair in pairs])

        def trial(rng):
            x, y = first.rvs((n, width), random_state=rng), second.rvs((m, width), random_state=rng)
            return intervals.kernel_interval(kernel_distance(x, y, 512)), true

        return Case(f"{name}, D = {width}, N = {n}, M = {m}", trial, 2000)

    stats = scipy.stats
    populations = {
        "normal": (stats.norm(0, 1), stats.norm(0.4, 0.8)),
        "exponential": (stats.expon(0), stats.expon(0, 0.8)),
        "log-normal": (stats.lognorm(0.5, -1), stats.lognorm(0.6, -1)),
        "Student, 9 degrees of freedom": (stats.t(9), stats.t(9, 0.4, 0.8)),
        "0 or 1, tied": (stats.bernoulli(0.3), stats.bernoulli(0.5)),
        "the same exponential": (stats.expon(-1), stats.expon(-1)),
    }
    sizes = ((4, 160, 240), (16, 200, 200), (64, 300, 300))
    return [case(name, *both, *size) for name, both in populations.items() for size in sizes]


def inception_scores() -> list[Case]:
    """Its logarithm, for classifiers that are rather unsure and rather sure."""

    def case(classes: int, certainty: float, count: int) -> Case:
        def draw(rng, count):
            logits = certainty * rng.normal(size=(count, classes)) + np.linspace(0, 1, classes)
            return inception_score(softmax(logits, axis=1))

        true = draw(np.random.default_rng(0), 4_000_000 // classes).information

        def trial(rng):
            found = draw(rng, count)
            return intervals.normal(found.information + found.bias, found.standard_error), true

        return Case(f"{classes} classes, logits' deviation {certainty}, N = {count}", trial, 2000)

    return [case(*one, count) for one in ((10, 1), (10, 12), (100, 8)) for count in (200, 1000)]


# ------------------------------------------------------------------------------------------------------ preferences


def preferences() -> list[Case]:
    """The difference of two scores out of four, in independent answers and of raters whose tastes differ."""
    scores = np.array([1.0, 0.5, -0.2, -1.3])

    def draw(rng, answers, taste):  # of each rater
        rater = np.repeat(np.arange(len(answers)), answers)
        tastes = scores + taste * rng.normal(size=(len(answers), 4))
        pairs = rng.permuted(np.tile(np.arange(4), (len(rater), 1)), axis=1)[:, :2]
        margin = tastes[rater, pairs[:, 0]] - tastes[rater, pairs[:, 1]]
        pairs = np.where(rng.random((len(rater), 1)) < 1 / (1 + np.exp(-margin))[:, None], pairs, pairs[:, ::-1])
        names = np.array(["a", "b", "c", "d"])
        return names[pairs[:, 0]], names[pairs[:, 1]], rater

    def case(name: str, answers: list[int], taste: float) -> Case:
        population = bradley_terry(*draw(np.random.default_rng(0), [10] * 20_000, taste)[:2])
        true = score_difference(population, "a", "d").estimate if taste else scores[0] - scores[3]

        def trial(rng):
            winners, losers, raters = draw(rng, answers, taste)
            found = bradley_terry(winners, losers, raters if len(answers) > 1 else None)
            return score_difference(found, "a", "d"), true

        return Case(name, trial, 1000)

    return [
        case("40 independent answers", [40], 0.0),
        case("300 independent answers", [300], 0.0),
        case("20 raters of 60 answers", [60] * 20, 0.7),
        case("4 raters of 60 answers", [60] * 4, 0.7),
        case("raters of 200, 40, 20, 20 and 20 answers", [200, 40, 20, 20, 20], 0.7),
    ]


KINDS = {
    "mean, Student's": means,
    "share, Wilson's": shares,
    "difference of accuracies, paired": paired_accuracies,
    "difference of accuracies, independent": independent_accuracies,
    "corrected Frechet distance, jackknife": frechet_distances,
    "kernel distance, score": kernel_distances,
    "Inception score, normal after correction": inception_scores,
    "preferences, Bradley-Terry": preferences,
}


HEADER = """# Coverage of intervals

Share of repetitions in which a nominal 95 % interval holds the true value, simulated by
`python experiments/interval_coverage.py`. The standard error of a share of 0.95 is 0.005 in 2,000 repetitions and 0.007
in 1,000. Below 0.93 or above 0.97 an interval is marked approximate.

| kind | case | repetitions | coverage | truth above | truth below | |
| --- | --- | --- | --- | --- | --- | --- |
"""


def line(row: Row) -> str:
    shares = " | ".join(f"{share:.3f}" for share in row[3:])
    mark = "" if 0.93 <= row.coverage <= 0.97 else "approximate"
    return f"| {row.kind} | {row.case} | {row.repetitions} | {shares} | {mark} |\n"


def main() -> None:
    rows = [coverage(kind, case) for kind, cases in KINDS.items() for case in cases()]
    RESULT.write_text(HEADER + "".join(map(line, rows)))


if __name__ == "__main__":
    main()
