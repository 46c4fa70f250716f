"""Power-function averages against the profile that they follow, and reconstructed ones against tracked ones."""

import numpy as np
import pytest

from genimg_jax import averages


def tracked(parameters, gamma):
    """The average after every step, as training would keep it."""  # [T, D] -> [T, D]
    decays = np.asarray(averages.power_decay(gamma, np.arange(1, len(parameters) + 1)))
    average, found = np.zeros(parameters.shape[1]), []
    for decay, row in zip(decays, parameters, strict=True):
        average = decay * average + (1 - decay) * row
        found.append(average)
    return np.array(found)


@pytest.mark.parametrize(("gamma", "relative_std"), [(16.97, 0.05), (6.94, 0.10)])
def test_exponents_match_the_paper(gamma, relative_std):
    """Karras et al. 2024, section 3.1."""
    assert abs(averages.exponent(relative_std) - gamma) < 0.01
    assert abs(averages.relative_std(gamma) - relative_std) < 1e-4


@pytest.mark.parametrize("relative_std", [0.01, 0.05, 0.1, 0.25, averages.GREATEST_RELATIVE_STD])
def test_exponent_is_the_inverse_of_the_relative_std(relative_std):
    assert abs(averages.relative_std(averages.exponent(relative_std)) - relative_std) < 1e-9


@pytest.mark.parametrize("relative_std", [0.05, 0.1, 0.25])
def test_profile_has_the_stated_width(relative_std):
    """What each step counts for is how the average answers an impulse at that step."""
    steps, gamma = 3000, averages.exponent(relative_std)
    decays = averages.power_decay(gamma, np.arange(1, steps + 1))
    profile = (1 - decays) * np.append(np.cumprod(decays[:0:-1])[::-1], 1.0)
    times = (np.arange(steps) + 0.5) / steps
    np.testing.assert_allclose(profile.sum(), 1, rtol=1e-9)
    mean = profile @ times
    np.testing.assert_allclose(np.sqrt(profile @ (times - mean) ** 2), relative_std, rtol=2e-3)


@pytest.mark.parametrize("relative_std", [0.03, 0.07, 0.15])
def test_reconstructed_average_is_the_tracked_one(relative_std):
    """Parameters that drift and shake, as in training, seen in snapshots of two averages every 250 of 8000 steps."""
    rng = np.random.default_rng(0)
    time = np.arange(8000)[:, None] / 8000
    parameters = 1 + np.sqrt(time) * rng.normal(size=(1, 16)) + 0.02 * rng.normal(size=(8000, 16))
    gammas = [averages.exponent(s) for s in (0.05, 0.10)]
    kept = np.arange(250, 8001, 250)
    snapshots = np.concatenate([tracked(parameters, gamma)[kept - 1] for gamma in gammas])
    target = averages.exponent(relative_std)
    factors, error = averages.combination(np.tile(kept, 2), np.repeat(gammas, len(kept)), 8000, target)
    assert error < 0.05
    expected = tracked(parameters, target)[-1]
    np.testing.assert_allclose(factors @ snapshots, expected, atol=1e-4 * np.abs(expected).max())
    assert np.abs(snapshots[[31, 63]] - expected).max() > 1e-3  # neither average that was kept would do


def test_a_stored_average_is_itself():
    gammas, kept = [16.97, 6.94], np.arange(100, 1001, 100)
    factors, error = averages.combination(np.tile(kept, 2), np.repeat(gammas, 10), 700, 6.94)
    np.testing.assert_allclose(factors, np.eye(20)[16], atol=1e-6)
    assert error < 1e-6


@pytest.mark.parametrize("relative_std", [0.02, 0.15, 0.25])
def test_the_error_is_the_distance_to_the_profile(relative_std):
    """Of too few snapshots, against the profiles themselves over the steps before 1600."""
    steps, gammas = [1200, 1600, 1200, 1600], [averages.exponent(s) for s in (0.05, 0.05, 0.1, 0.1)]
    wanted = averages.exponent(relative_std)
    factors, error = averages.combination(steps, gammas, 1600, wanted)
    at = (np.arange(160_000) + 0.5) / 100

    def profile(step, gamma):
        return np.where(at < step, (gamma + 1) * (at / step) ** gamma / step, 0)

    made = sum(f * profile(s, g) for f, s, g in zip(factors, steps, gammas, strict=True))
    expected = profile(1600, wanted)
    np.testing.assert_allclose(error, np.linalg.norm(made - expected) / np.linalg.norm(expected), rtol=1e-3)
    assert error > 0.05
