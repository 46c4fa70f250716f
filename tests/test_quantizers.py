"""Quantisers against brute force and closed forms: every code there and back, the codebook's averages and revival."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from genimg_jax.errors import ConfigError
from genimg_jax.objectives import quantizers

LEVELS = [(2,), (3, 2), (8, 5, 5, 5), (7, 4, 6)]


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def alive(vectors: np.ndarray) -> quantizers.State:
    """A codebook whose every code has had its uniform share."""
    return {"vectors": vectors, "sums": vectors / len(vectors), "usage": np.full(len(vectors), 1 / len(vectors))}


def test_nearest_is_the_least_distance():
    codebook, vectors = normal(0, 20, 5), normal(1, 3, 4, 5)
    distances = np.square(vectors[..., None, :].astype(np.float64) - codebook).sum(-1)
    np.testing.assert_array_equal(quantizers.nearest(codebook, vectors), distances.argmin(-1))
    np.testing.assert_array_equal(quantizers.nearest(codebook, codebook), np.arange(20))


def test_the_first_of_equal_codes_is_taken():
    codebook = np.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0]], np.float32)
    np.testing.assert_array_equal(quantizers.nearest(codebook, codebook), [0, 1, 0])


def test_vq_round_trips_every_code():
    quantizer = quantizers.vector_quantizer(20, 5, 0.9, 0.0)
    state, codes = alive(normal(0, 20, 5)), np.arange(20, dtype=np.int32).reshape(4, 5)
    vectors = quantizer.decode(state, codes)
    assert vectors.shape == (4, 5, 5)
    np.testing.assert_array_equal(quantizer.encode(state, vectors), codes)
    np.testing.assert_array_equal(quantizer.encode(state, vectors + 1e-3), codes)


def test_the_gradient_passes_straight_through_and_commitment_pulls_to_the_code():
    quantizer, state = quantizers.vector_quantizer(7, 3, 0.9, 0.0), alive(normal(0, 7, 3))
    vectors, weight = normal(1, 4, 3), normal(2, 4, 3)
    quantized, codes, commitment = quantizer.quantize(state, vectors)
    nearby = state["vectors"][np.asarray(codes)]
    np.testing.assert_allclose(quantized, nearby, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(commitment, np.square(vectors - nearby).mean(-1), rtol=1e-5)
    passed = jax.grad(lambda x: (weight * quantizer.quantize(state, x)[0]).sum())(vectors)
    np.testing.assert_array_equal(passed, weight)
    pull = jax.grad(lambda x: quantizer.quantize(state, x)[2].sum())(vectors)
    np.testing.assert_allclose(pull, 2 * (vectors - nearby) / 3, rtol=1e-5, atol=1e-6)


def test_the_codebook_is_the_average_of_what_took_its_codes(monkeypatch):
    """Counts and sums in loops, as van den Oord et al. write them, over several steps, with smoothing that shows."""
    monkeypatch.setattr(quantizers, "EPSILON", 0.3)
    size, features, decay = 6, 3, 0.8
    quantizer = quantizers.vector_quantizer(size, features, decay, 0.0)
    state = alive(normal(0, size, features))
    counts, sums, codebook = np.full(size, 40 / size), state["sums"] * 40.0, state["vectors"].astype(np.float64)

    @jax.jit
    def run(state, vectors):
        codes = quantizer.encode(state, vectors)
        return quantizer.update(state, quantizer.observe(jax.random.key(0), 10, jnp.arange(10), vectors, codes))

    for step in range(5):
        vectors = normal(10 + step, 10, 2, 2, features)
        state, metrics = run(state, vectors)
        taken = np.zeros(size)
        gathered = np.zeros((size, features))
        for vector in vectors.reshape(-1, features):
            nearby = int(np.square(vector - codebook).sum(1).argmin())
            taken[nearby] += 1
            gathered[nearby] += vector
        counts, sums = decay * counts + (1 - decay) * taken, decay * sums + (1 - decay) * gathered
        epsilon = quantizers.EPSILON * 40 / size
        smoothed = (counts + epsilon) / (counts.sum() + size * epsilon) * counts.sum()
        codebook = sums / smoothed[:, None]
        np.testing.assert_allclose(state["vectors"], codebook, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(state["usage"], counts / 40, rtol=1e-5)
        np.testing.assert_allclose(metrics["perplexity"], np.exp(scipy.stats.entropy(taken)), rtol=1e-5)
        assert metrics["codebook_usage"] == 1.0


def revive(key, threshold, vectors, state, features=3):
    quantizer = quantizers.vector_quantizer(len(state["usage"]), features, 0.5, threshold)

    @jax.jit
    def run(key, state, vectors):
        codes = quantizer.encode(state, vectors)
        seen = quantizer.observe(key, len(vectors), jnp.arange(len(vectors)), vectors, codes)
        return codes, *quantizer.update(state, seen)

    return run(key, state, vectors)


def test_dead_codes_become_different_vectors_of_the_batch():
    vectors = normal(1, 4, 2, 2, 3)
    codebook = np.concatenate([normal(0, 2, 3), 100 + normal(0, 6, 3)])  # six that nothing takes
    state = alive(codebook)
    state["usage"] = np.array([0.2, 0.2, 0.6, 0.0, 0.0, 0.0, 0.0, 0.0])  # of which one was in use so far
    state["sums"] = codebook * state["usage"][:, None]
    codes, after, metrics = revive(jax.random.key(0), 0.1, vectors, state)
    assert set(np.unique(codes)) == {0, 1}
    flat = vectors.reshape(-1, 3)
    same = (np.asarray(after["vectors"])[3:, None] == flat[None]).all(-1)
    assert same.sum(1).tolist() == [1] * 5, "a revived code is no vector of the batch"
    assert same.any(0).sum() == 5, "a vector was drawn twice"
    np.testing.assert_allclose(after["vectors"][2], codebook[2], rtol=1e-4)
    np.testing.assert_allclose(after["usage"][3:], 0.1 / 8, rtol=1e-6)
    np.testing.assert_allclose(after["sums"][3:], after["vectors"][3:] * 0.1 / 8, rtol=1e-6)
    assert metrics["codebook_usage"] == 3 / 8
    other = revive(jax.random.key(1), 0.1, vectors, state)[1]
    assert (np.asarray(other["vectors"])[3:] != np.asarray(after["vectors"])[3:]).any()
    np.testing.assert_array_equal(other["vectors"][:3], after["vectors"][:3])


def test_a_revived_code_lives_by_its_share_alone():
    """At `threshold` times uniform use: with more than that share it stays in use, with less it is replaced again."""
    quantizer = quantizers.vector_quantizer(4, 1, 0.9, 0.5)
    state = {"vectors": np.array([[0.0], [1.0], [2.0], [3.0]], np.float32), "usage": np.full(4, 0.5 / 4)}
    state["sums"] = state["vectors"] * 0.5 / 4
    share = np.array([0.7, 0.5 / 4 + 0.01, 0.5 / 4 - 0.01, 0.06])
    statistics = {"share": share, "sums": share[:, None], "sampled": np.full((4, 1), 9.0), "present": np.ones(4)}
    after, metrics = quantizer.update(state, statistics)
    np.testing.assert_array_equal(np.asarray(after["vectors"])[:, 0] == 9.0, [False, False, True, True])
    assert metrics["codebook_usage"] == 0.5


@pytest.mark.parametrize("threshold", [0.0, 0.03])
def test_the_first_batch_makes_the_codebook(threshold):
    quantizer = quantizers.vector_quantizer(12, 3, 0.5, threshold)
    vectors = normal(1, 4, 2, 2, 3)
    start = quantizer.init(jax.random.key(0))
    codes, after, _ = revive(jax.random.key(2), threshold, vectors, start)
    flat, codes = vectors.reshape(-1, 3), np.asarray(codes).ravel()
    for code, vector in enumerate(np.asarray(after["vectors"])):
        if (codes == code).any():
            np.testing.assert_allclose(vector, flat[codes == code].mean(0), rtol=1e-3)
        else:
            assert (vector == flat).all(-1).any()


def test_every_vector_is_drawn_equally_often():
    vectors = jnp.arange(12.0).reshape(3, 4, 1)
    draw = jax.jit(jax.vmap(lambda key: quantizers.sample_vectors(key, 2, 3, jnp.arange(3), vectors)[0]))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(0), 3000)))[..., 0]
    assert (drawn[:, 0] != drawn[:, 1]).all()
    for column in drawn.T:
        assert scipy.stats.chisquare(np.bincount(column.astype(int), minlength=12)).pvalue > 1e-3


def test_more_draws_than_vectors_repeat_them_all():
    vectors = jnp.asarray(normal(0, 2, 3, 1))
    sampled, present = quantizers.sample_vectors(jax.random.key(0), 14, 2, jnp.arange(2), vectors)
    assert present.all() and set(np.unique(sampled)) == set(np.unique(vectors))


@pytest.mark.parametrize(("kind", "parts"), [("vq", 4), ("fsq", 2)])
def test_a_batch_is_the_mean_of_its_parts(kind, parts):
    fsq = quantizers.finite_scalar_quantizer((3, 2), 0.9, 0.03)
    quantizer = fsq if kind == "fsq" else quantizers.vector_quantizer(10, 2, 0.9, 0.03)
    state, vectors, index = quantizer.init(jax.random.key(0)), jnp.asarray(normal(1, 8, 2, 3, 2)), np.arange(8)

    def seen(rows):
        codes = quantizer.encode(state, vectors[rows])
        return quantizer.observe(jax.random.key(5), 8, index[rows], vectors[rows], codes)

    @jax.jit
    def both():
        slices = [seen(slice(i, None, parts)) for i in range(parts)]
        averaged = jax.tree.map(lambda *x: sum(x) / parts, *slices)
        return quantizer.update(state, seen(slice(None))), quantizer.update(state, averaged)

    for a, b in zip(*map(jax.tree.leaves, both()), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_perplexity_counts_codes_used_equally_often():
    np.testing.assert_allclose(quantizers.perplexity(jnp.full(37, 1 / 37)), 37.0, rtol=1e-5)
    np.testing.assert_allclose(quantizers.perplexity(jnp.eye(37)[3]), 1.0, rtol=1e-6)
    np.testing.assert_allclose(quantizers.perplexity(jnp.repeat(jnp.array([0.25, 0.0]), 4)), 4.0, rtol=1e-5)


# ------------------------------------------------------------------------------------------------------- fixed levels


def every_vector(levels: tuple[int, ...]) -> np.ndarray:
    """The whole numbers each value is rounded to, over half their count, in the order of their codes."""
    values = [np.arange(-(count // 2), (count + 1) // 2) / (count // 2) for count in levels]
    return np.array(list(itertools.product(*values)), np.float32)


def before_bound(vectors: np.ndarray, levels: tuple[int, ...]) -> np.ndarray:
    """What `bound` takes to the given levels."""
    counts = np.array(levels)
    half, offset = (counts - 1) / 2 * 1.001, np.where(counts % 2, 0.0, 0.5)
    return (np.arctanh((vectors * (counts // 2) + offset) / half) - np.arctanh(offset / half)).astype(np.float32)


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_round_trips_every_code(levels):
    quantizer = quantizers.finite_scalar_quantizer(levels, 0.9, 0.03)
    state, codes = quantizer.init(jax.random.key(0)), np.arange(np.prod(levels))
    assert (quantizer.size, quantizer.features) == (len(codes), len(levels))
    vectors = np.asarray(quantizer.decode(state, codes))
    np.testing.assert_allclose(vectors, every_vector(levels), rtol=1e-6)
    np.testing.assert_array_equal(quantizer.encode(state, before_bound(vectors, levels)), codes)
    quantized, found, commitment = quantizer.quantize(state, before_bound(vectors, levels))
    np.testing.assert_allclose(quantized, vectors, atol=1e-6)
    np.testing.assert_array_equal(found, codes)
    assert not commitment.any()


@pytest.mark.parametrize("levels", LEVELS)
def test_a_sweep_hits_every_level_in_order_and_none_beyond(levels):
    """The widths of the intervals mirror each other, and 0 stays 0: no level is favoured by its side."""
    sweep = np.linspace(-40.0, 40.0, 80_001, dtype=np.float32)[:, None].repeat(len(levels), 1)
    bounded = np.asarray(quantizers.bound(sweep, levels))
    for axis, count in enumerate(levels):
        rounded = np.round(bounded[:, axis])
        assert (np.diff(rounded) >= 0).all()
        np.testing.assert_array_equal(np.unique(rounded), np.arange(-(count // 2), (count + 1) // 2))
        middle = (bounded[0, axis] + bounded[-1, axis]) / 2
        np.testing.assert_allclose(middle, 0.0 if count % 2 else -0.5, atol=1e-6)
        np.testing.assert_allclose(bounded[-1, axis] - bounded[0, axis], (count - 1) * 1.001, rtol=1e-6)
        np.testing.assert_allclose(bounded[40_000, axis], 0.0, atol=1e-6)


@pytest.mark.parametrize("levels", LEVELS)
def test_fsq_has_the_gradient_of_its_bound(levels):
    quantizer = quantizers.finite_scalar_quantizer(levels, 0.9, 0.03)
    vectors = normal(3, 5, len(levels))
    gradient = jax.grad(lambda x: quantizer.quantize({}, x)[0].sum())(vectors)
    counts = np.array(levels)
    half, offset = (counts - 1) / 2 * 1.001, np.where(counts % 2, 0.0, 0.5)
    slope = (1 - np.tanh(vectors + np.arctanh(offset / half)) ** 2) * half / (counts // 2)
    np.testing.assert_allclose(gradient, slope, rtol=1e-4, atol=1e-6)


def test_fsq_keeps_count_of_its_codes():
    quantizer = quantizers.finite_scalar_quantizer((3, 2), 0.75, 0.1)
    state, codes = quantizer.init(jax.random.key(0)), np.array([[[0, 0, 0, 5]]])
    seen = quantizer.observe(jax.random.key(0), 1, np.arange(1), normal(0, 1, 1, 4, 2), codes)
    for step in range(1, 4):
        state, metrics = quantizer.update(state, seen)
        np.testing.assert_allclose(state["usage"], np.array([3, 0, 0, 0, 0, 1]) / 4 * (1 - 0.75**step), rtol=1e-5)
        np.testing.assert_allclose(metrics["codebook_usage"], 2 / 6, rtol=1e-6)
        np.testing.assert_allclose(metrics["perplexity"], np.exp(scipy.stats.entropy([3, 1])), rtol=1e-5)


@pytest.mark.parametrize("levels", [(), (4, 1), (3, 2.0), (-2,)])
def test_levels_that_are_none_are_refused(levels):
    with pytest.raises(ConfigError, match=r"model\.levels"):
        quantizers.finite_scalar_quantizer(levels, 0.9, 0.03)
