"""Scores of restored images against scikit-image, PyTorch, closed forms, and worlds whose posterior is known."""

import itertools

import needs
import numpy as np
import pytest
import scipy.ndimage
import scipy.signal
import scipy.stats

from genimg_jax.errors import DataError
from genimg_jax.metrics import calibration, features, intervals, restoration
from genimg_jax.objectives.distances import peak_signal_to_noise_ratio

COMPARISON = restoration.Comparison("shapes", "test", 0, {"observation": "4 times smaller"})
SCORES = (restoration.psnr, restoration.ssim, restoration.ms_ssim)


def smooth(seed, shape):
    """Images with structure, in [-1, 1]."""
    noise = np.random.default_rng(seed).normal(size=shape)
    return np.tanh(3 * scipy.ndimage.gaussian_filter(noise, (0, 2, 2, 0))).astype(np.float32)


def pair(shape):
    """A result of another brightness, contrast and noise, and its truth."""
    truth = smooth(0, shape)
    result = 0.7 * truth - 0.2 + 0.1 * np.random.default_rng(1).normal(size=shape)
    return np.clip(result, -1, 1).astype(np.float32), truth


# ------------------------------------------------------------------------------------------------ against the truth


def test_psnr_is_that_of_training():
    result, truth = pair((5, 8, 9, 3))
    errors = np.square(result - truth).mean(axis=(1, 2, 3))
    np.testing.assert_allclose(restoration.psnr(result, truth), peak_signal_to_noise_ratio(errors), rtol=1e-5)
    np.testing.assert_allclose(restoration.psnr(truth, truth), peak_signal_to_noise_ratio(np.zeros(5)), rtol=1e-5)
    np.testing.assert_allclose(restoration.psnr(np.full((2, 4, 4, 1), 0.3), np.full((2, 4, 4, 1), 0.1)), 20)


@pytest.mark.parametrize("shape", [(4, 28, 28, 1), (3, 33, 47, 3), (2, 11, 12, 1)])
def test_ssim_is_scikit_images(shape):
    reference = needs.module("skimage.metrics").structural_similarity
    result, truth = pair(shape)
    arguments = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 1}
    pairs = zip(*((x.astype(np.float64) + 1) / 2 for x in (result, truth)), strict=True)
    expected = [reference(x, y, channel_axis=-1, **arguments) for x, y in pairs]
    np.testing.assert_allclose(restoration.ssim(result, truth), expected, atol=1e-5)


def ms_ssim_by_convolution(x, y, scales):
    """One channel in [0, 1]: a window of two dimensions, variances of deviations, images shrunk by a box filter."""
    exponents = np.array([0.0448, 0.2856, 0.3001, 0.2363, 0.1333])[:scales]
    window = np.outer(*[scipy.stats.norm.pdf(np.arange(-5, 6), scale=1.5)] * 2)
    window, value = window / window.sum(), 1
    for scale in range(scales):
        views = [np.lib.stride_tricks.sliding_window_view(image, (11, 11)) for image in (x, y)]
        mean = [(view * window).sum(axis=(2, 3)) for view in views]
        deviation = [view - m[:, :, None, None] for view, m in zip(views, mean, strict=True)]
        moment = {(i, j): (deviation[i] * deviation[j] * window).sum(axis=(2, 3)) for i in (0, 1) for j in (0, 1)}
        score = (2 * moment[0, 1] + 0.0009) / (moment[0, 0] + moment[1, 1] + 0.0009)
        if scale == scales - 1:
            score = score * (2 * mean[0] * mean[1] + 0.0001) / (mean[0] ** 2 + mean[1] ** 2 + 0.0001)
        value *= max(score.mean(), 0) ** (exponents[scale] / exponents.sum())
        x, y = (scipy.signal.convolve2d(image, np.full((2, 2), 1 / 4), "valid")[::2, ::2] for image in (x, y))
    return value


@pytest.mark.parametrize(("shape", "scales"), [((2, 176, 180, 1), 5), ((2, 45, 47, 3), 3), ((3, 28, 32, 1), 2)])
def test_ms_ssim_is_its_definition(shape, scales):
    result, truth = pair(shape)
    assert restoration.num_scales(shape[1:]) == scales
    halves = ((result.astype(np.float64) + 1) / 2, (truth.astype(np.float64) + 1) / 2)
    expected = [
        np.mean([ms_ssim_by_convolution(x[..., c], y[..., c], scales) for c in range(shape[-1])])
        for x, y in zip(*halves, strict=True)
    ]
    np.testing.assert_allclose(restoration.ms_ssim(result, truth), expected, rtol=1e-9)


def test_scales_fit_the_window():
    assert [restoration.num_scales((n, 500, 1)) for n in (10, 11, 21, 22, 44, 87, 88, 175, 176, 400)] == [
        *(0, 1, 1, 2, 3, 3, 4, 4, 5, 5)
    ]


@pytest.mark.parametrize("score", SCORES)
def test_scores_are_symmetric_and_best_for_identical_images(score, monkeypatch):
    result, truth = pair((5, 24, 23, 3))
    values = score(result, truth)
    np.testing.assert_allclose(score(truth, result), values, rtol=1e-9)
    best = score(truth, truth)
    assert (values < best).all()
    np.testing.assert_allclose(best, 10 * np.log10(4e10) if score is restoration.psnr else 1)
    monkeypatch.setattr(restoration, "BLOCK", 24 * 23 * 3 * 2)  # two images at a time, then one
    np.testing.assert_array_equal(score(result, truth), values)


def test_ssim_of_constants_is_the_luminance_term():
    """Values a and b in [0, 1] have no variance: (2ab + C1) / (a^2 + b^2 + C1)."""
    a, b = 0.2, 0.7
    expected = (2 * a * b + 1e-4) / (a**2 + b**2 + 1e-4)
    images = [np.full((1, 23, 24, 3), 2 * value - 1) for value in (a, b)]
    np.testing.assert_allclose(restoration.ssim(*images), expected)
    np.testing.assert_allclose(restoration.ms_ssim(*images), expected ** (0.2856 / (0.0448 + 0.2856)))


def test_negative_structure_counts_as_none():
    truth = smooth(2, (2, 24, 24, 1))
    assert (restoration.ssim(-truth, truth) < 0).all() and (restoration.ms_ssim(-truth, truth) == 0).all()


def test_feature_distance_is_of_each_pair():
    result, truth = np.random.default_rng(3).normal(size=(2, 7, 5)).astype(np.float32)
    expected = [scipy.spatial.distance.sqeuclidean(x, y) for x, y in zip(result, truth, strict=True)]
    np.testing.assert_allclose(restoration.feature_distance(result, truth), expected, rtol=1e-6)


# ------------------------------------------------------------------------------ a Gaussian world, observed with noise

# Entries of an image share a part, and so depend on each other: x = common part + independent part, y = x + noise.
COMMON, INDEPENDENT, NOISE = 0.8, 0.6, 0.5


def gaussian_world(seed, count, images, spread=1.0, noise=NOISE, pixels=9):
    """Samples f64[K, N, pixels] of the posterior given y, with `spread` times its deviation, truth and observation."""
    rng = np.random.default_rng(seed)
    prior = COMMON**2 * np.ones((pixels, pixels)) + INDEPENDENT**2 * np.eye(pixels)
    gain = prior @ np.linalg.inv(prior + noise**2 * np.eye(pixels))
    root = np.linalg.cholesky(prior - gain @ prior)
    truth = rng.normal(size=(images, pixels)) @ np.linalg.cholesky(prior).T
    observed = truth + noise * rng.normal(size=truth.shape)
    deviation = rng.normal(size=(count, images, pixels)) @ root.T
    return observed @ gain.T + spread * deviation, truth, observed


def test_residual_of_exact_samples_is_the_noise():
    samples, _, observed = gaussian_world(0, 2, 4000)
    values = restoration.residual(samples[0], observed, NOISE)
    interval = intervals.mean(np.square(values), 0.999)
    assert interval.low < 1 < interval.high and interval.standard_error < 0.01
    mean = restoration.residual(samples.mean(axis=0), observed, NOISE)
    assert intervals.mean(np.square(mean), 0.999).high < 1, "the mean does not have the noise"


def test_residual_counts_what_is_observed():
    predicted, observed = np.zeros((2, 3, 4, 1)), np.full((2, 3, 4, 1), 0.2)
    predicted[1] = 1.2
    where = np.zeros((2, 3, 4), bool)
    where[:, 1] = True
    predicted[:, 0] = 99
    np.testing.assert_allclose(restoration.residual(predicted, observed, where=where[..., None]), [0.2, 1])
    np.testing.assert_allclose(restoration.residual(predicted, observed, 0.1, where[..., None]), [2, 10])


@pytest.mark.parametrize("count", [4, 8, 19])
@pytest.mark.parametrize("level", [0.5, 0.9, 0.95])
def test_exact_samples_are_covered_as_stated(count, level):
    samples, truth, _ = gaussian_world(count, count, 4000)
    values = calibration.credible_coverage(calibration.rank_histograms(samples, truth), level)
    interval = intervals.mean(values, 0.999)
    assert interval.low < level < interval.high and interval.standard_error < 0.005


@pytest.mark.parametrize("count", [2, 4, 8, 19])
def test_coverage_of_uniform_ranks_is_the_level(count):
    """For any level, and by the definition: the probability that (rank + U) / (K + 1) is in the central interval."""
    uniform = np.full((1, count + 1), 1 / (count + 1))
    place = (np.arange(count + 1)[:, None] + (np.arange(10_000) + 0.5) / 10_000) / (count + 1)
    for level in (0.1, 0.5, 0.9, 0.95, 1.0):
        np.testing.assert_allclose(calibration.credible_coverage(uniform, level), level)
        weights = (np.abs(place - 0.5) < level / 2).mean(axis=1)
        np.testing.assert_allclose(calibration.credible_coverage(np.eye(count + 1), level), weights, atol=2e-4)


@pytest.mark.parametrize(("spread", "ends_are_high"), [(0.7, True), (1.4, False)])
def test_a_wrong_spread_is_detected(spread, ends_are_high):
    samples, truth, _ = gaussian_world(1, 8, 300, spread)
    histograms = calibration.rank_histograms(samples, truth)
    uniformity = calibration.rank_uniformity(histograms)
    assert uniformity.p_value < 1e-4 and uniformity.total_variation > 2 * uniformity.chance
    assert (uniformity.shares[[0, -1]].mean() > 1 / 9) == ends_are_high
    interval = intervals.mean(calibration.credible_coverage(histograms, 0.9), 0.999)
    assert interval.high < 0.9 if ends_are_high else interval.low > 0.9


def test_a_shift_is_detected():
    samples, truth, _ = gaussian_world(2, 8, 300)
    assert calibration.rank_uniformity(calibration.rank_histograms(samples + 0.2, truth)).p_value < 1e-4


@pytest.mark.parametrize(
    ("count", "images", "noise", "pixels"),
    [
        (4, 40, NOISE, 9),
        (8, 40, 5, 64),  # with K degrees of freedom 13 % are rejected, since entries depend much on each other
        (19, 10, NOISE, 9),  # without the correction for few images, 0.3 %
    ],
)
def test_the_uniformity_test_and_the_intervals_hold_their_levels(count, images, noise, pixels):
    """Of 400 repetitions 5 % are 20 +- 4.4."""
    rejected, missed, chances, distances = 0, 0, [], []
    for seed in range(400):
        samples, truth, _ = gaussian_world(seed, count, images, noise=noise, pixels=pixels)
        histograms = calibration.rank_histograms(samples, truth)
        uniformity = calibration.rank_uniformity(histograms)
        rejected += uniformity.p_value < 0.05
        interval = intervals.mean(calibration.credible_coverage(histograms, 0.5))
        missed += not interval.low < 0.5 < interval.high
        chances.append(uniformity.chance)
        distances.append(uniformity.total_variation)
    assert 7 <= rejected <= 33 and 7 <= missed <= 33
    np.testing.assert_allclose(np.mean(chances), np.mean(distances), rtol=0.1)


def test_ranks_are_those_of_a_sort():
    samples, truth, _ = gaussian_world(3, 5, 20)
    ranks = np.argsort(np.concatenate([truth[None], samples]), axis=0).argmin(axis=0)
    expected = [np.bincount(row, minlength=6) / len(row) for row in ranks]
    np.testing.assert_allclose(calibration.rank_histograms(samples, truth), expected)


def test_ties_are_spread_as_random_orders_spread_them():
    """Few levels, so that nearly all entries tie: the mean over tiny disturbances of all values."""
    samples, truth, _ = gaussian_world(4, 4, 3)
    samples, truth = np.round(samples), np.round(truth)
    rng, repetitions = np.random.default_rng(5), 4000
    disturbed = [
        calibration.rank_histograms(*(x + 1e-6 * rng.random(x.shape) for x in (samples, truth)))
        for _ in range(repetitions)
    ]
    # A share of an image's 9 entries has at most the deviation 1/2.
    tolerance = 4 * 0.5 / np.sqrt(9 * repetitions)
    np.testing.assert_allclose(np.mean(disturbed, axis=0), calibration.rank_histograms(samples, truth), atol=tolerance)


def test_tied_samples_are_covered_as_stated():
    samples, truth, _ = gaussian_world(6, 8, 4000)
    histograms = calibration.rank_histograms(np.maximum(samples, 0), np.maximum(truth, 0))
    for level in (0.5, 0.9, 0.95):
        interval = intervals.mean(calibration.credible_coverage(histograms, level), 0.999)
        assert interval.low < level < interval.high and interval.standard_error < 0.005


def test_constant_histograms_have_a_verdict():
    """Without variance between images: always uniform, and always beyond all samples."""
    samples, truth = np.zeros((4, 6, 9)), np.zeros((6, 9))
    assert calibration.rank_uniformity(calibration.rank_histograms(samples, truth)).p_value == pytest.approx(1)
    above = calibration.rank_uniformity(calibration.rank_histograms(samples, truth + 1))
    assert above.p_value < 1e-6 and above.total_variation == pytest.approx(4 / 5)


def test_entries_left_out_change_nothing():
    samples, truth, _ = gaussian_world(7, 4, 6)
    where = np.arange(9) < 5
    changed, moved = samples.copy(), truth.copy()
    changed[..., 5:], moved[..., 5:] = 7, -3
    for score in (calibration.rank_histograms, calibration.crps, calibration.energy_score):
        np.testing.assert_array_equal(score(changed, moved, where), score(samples, truth, where))
        np.testing.assert_allclose(score(changed, moved, where), score(samples[..., :5], truth[..., :5]))
    np.testing.assert_allclose(calibration.diversity(changed, where), calibration.diversity(samples[..., :5]))


# ------------------------------------------------------------------------------------------- proper scores and spread


def normal_crps(mean, deviation, truth):
    """Gneiting et al. 2005, equation 5."""
    z = (truth - mean) / deviation
    normal = scipy.stats.norm
    return deviation * (z * (2 * normal.cdf(z) - 1) + 2 * normal.pdf(z) - 1 / np.sqrt(np.pi))


@pytest.mark.parametrize("count", [2, 5])
def test_crps_is_the_closed_form_of_a_gaussian_for_any_number_of_samples(count):
    truth = np.linspace(-2, 2, 5)[None].repeat(20_000, axis=0)
    samples = 0.3 + 0.7 * np.random.default_rng(0).normal(size=(count, *truth.shape))
    interval = intervals.mean(calibration.crps(samples, truth), 0.999)
    assert interval.low < normal_crps(0.3, 0.7, truth[0]).mean() < interval.high and interval.standard_error < 0.002


def test_energy_score_is_its_definition_and_of_one_entry_the_crps():
    samples, truth, _ = gaussian_world(8, 4, 6)
    error = np.mean([np.linalg.norm(x - truth, axis=1) for x in samples], axis=0)
    pairs = [np.linalg.norm(x - y, axis=1) for x, y in itertools.permutations(samples, 2)]
    expected = (error - np.sum(pairs, axis=0) / (4 * 3) / 2) / 3  # of root mean squares: over the root of 9 entries
    np.testing.assert_allclose(calibration.energy_score(samples, truth), expected)
    single = samples[..., :1], truth[..., :1]
    np.testing.assert_allclose(calibration.energy_score(*single), calibration.crps(*single))


@pytest.mark.parametrize("score", [calibration.crps, calibration.energy_score])
def test_exact_samples_have_the_best_proper_score(score):
    """Paired: all have the same truths and draws."""
    exact, truth, _ = gaussian_world(9, 8, 2000)
    for other in (gaussian_world(9, 8, 2000, 0.6)[0], gaussian_world(9, 8, 2000, 1.6)[0], exact + 0.2):
        assert intervals.paired_difference(score(other, truth), score(exact, truth), 0.999).low > 0


def test_exact_samples_differ_from_each_other_as_from_the_truth():
    samples, truth, _ = gaussian_world(10, 8, 4000)
    error = np.square(samples - truth).mean(axis=(0, 2))
    interval = intervals.paired_difference(calibration.diversity(samples), error, 0.999)
    assert interval.low < 0 < interval.high and interval.standard_error < 0.01 * error.mean()
    pairs = [np.square(x - y).mean(axis=1) for x, y in itertools.permutations(samples, 2)]
    np.testing.assert_allclose(calibration.diversity(samples), np.mean(pairs, axis=0))


def test_the_mean_of_exact_samples_has_the_stated_error():
    """1 + 1 / K times that of the posterior mean."""
    samples, truth, observed = (x / 20 for x in gaussian_world(11, 4, 4000))
    images = samples[..., None, None], truth[..., None, None]
    error = 4 / 10 ** (calibration.psnr_of_mean(*images) / 10)
    prior = COMMON**2 * np.ones((9, 9)) + INDEPENDENT**2 * np.eye(9)
    mean = observed @ np.linalg.solve(prior + NOISE**2 * np.eye(9), prior)
    interval = intervals.paired_difference(error, 1.25 * np.square(mean - truth).mean(axis=1), 0.999)
    assert interval.low < 0 < interval.high and interval.standard_error < 0.02 * error.mean()


# ------------------------------------------------------------------------------------------------ specs and refusals


def test_measurements_have_intervals_and_specs_of_their_own():
    result, truth = pair((6, 28, 28, 1))
    measured = restoration.measurements(result, truth, COMPARISON)
    measured["feature_distance"] = restoration.feature_measurement(
        result.reshape(6, -1), truth.reshape(6, -1), features.pixels, COMPARISON
    )
    measured["residual"] = restoration.residual_measurement(result, truth, COMPARISON, 0.1)
    measured |= calibration.measurements(np.stack([result, truth, -result]), truth, COMPARISON)
    assert set(measured) == {
        *("psnr", "ssim", "ms_ssim", "feature_distance", "residual", "crps", "energy_score", "diversity"),
        *("psnr_of_mean", "rank_deviation", *(f"credible_coverage/{level}" for level in (50, 90, 95))),
    }
    assert len({m.spec.digest() for m in measured.values()}) == len(measured)
    for name, m in measured.items():
        assert name == "rank_deviation" or m.low <= m.value <= m.high
        assert m.spec.protocol["observation"] == "4 times smaller" and m.spec.reference_samples == 6
    assert measured["psnr"].value == pytest.approx(restoration.psnr(result, truth).mean())
    assert (measured["psnr"].spec.samples, measured["crps"].spec.samples) == (6, 18)
    assert [measured[name].spec.protocol["samples an image"] for name in ("psnr", "crps")] == [1, 3]


def test_digests_tell_definitions_apart():
    def digests(shape, count, where=None):
        result, truth = pair(shape)
        measured = restoration.measurements(result, truth, COMPARISON)
        measured |= calibration.measurements(np.stack([result] * count), truth, COMPARISON, where)
        return {name: m.spec.digest() for name, m in measured.items()}

    small, large = digests((2, 22, 22, 1), 2), digests((2, 44, 44, 1), 3)
    assert {name for name in small if small[name] == large[name]} == {"psnr", "ssim"}
    assert digests((2, 22, 22, 1), 2, np.ones((22, 22, 1), bool))["crps"] != small["crps"]
    residuals = [restoration.residual_measurement(*pair((2, 8, 8, 1)), COMPARISON, noise) for noise in (0, 0.1, 0.2)]
    assert len({m.spec.digest() for m in residuals}) == 3


def test_one_image_has_no_interval_and_a_small_one_no_ssim():
    result, truth = pair((1, 8, 8, 1))
    measured = restoration.measurements(result, truth, COMPARISON)
    assert list(measured) == ["psnr"] and measured["psnr"].low is None
    assert "rank_deviation" not in calibration.measurements(np.stack([result, result]), truth, COMPARISON)


def test_refusals():
    result, truth = pair((3, 12, 12, 1))
    for score in SCORES:
        with pytest.raises(DataError, match="cannot be compared"):
            score(result[:2], truth)
        with pytest.raises(DataError, match=r"in \[-1, 1\]"):
            score(127 * result, truth)
        with pytest.raises(DataError, match=r"in \[-1, 1\]"):
            score(result * np.nan, truth)
    for score in SCORES[1:]:
        with pytest.raises(DataError, match="11 x 11"):
            score(result[:, :10], truth[:, :10])
    with pytest.raises(DataError, match="image 1"):
        restoration.residual(result, truth, where=(np.arange(3) != 1)[:, None, None, None])
    with pytest.raises(DataError, match="at least 2 samples"):
        calibration.crps(result[None], truth)
    with pytest.raises(DataError, match="not finite"):
        calibration.rank_histograms(np.stack([result, result * np.nan]), truth)
    with pytest.raises(DataError, match="2 images"):
        calibration.rank_uniformity(np.full((1, 5), 0.2))
