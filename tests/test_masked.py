"""The masked family against enumeration: of every partly known image of 3x3 binary pixels, and of every order."""

import dataclasses
import functools
import itertools
import math

import enumeration
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from random_weights import random_weights

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import masked
from genimg_jax.objectives import any_order
from genimg_jax.samplers import unmask

COUNT = 9
BINARY = core.Spec((3, 3, 1), 3, 2)
IMAGES = enumeration.all_images(3, 3, 2)
TOKENS = (IMAGES.reshape(-1, COUNT) > 0).astype(np.int32)  # [512, 9]
MASKS = np.array(list(itertools.product([False, True], repeat=COUNT)))[:-1]  # known; all but that of no masked token
PARTIAL = np.array(list(itertools.product(range(3), repeat=COUNT)))  # 2: masked
POWERS = 3 ** np.arange(COUNT)[::-1]
NOTHING = np.zeros(COUNT, bool)

# A table f[3^9, 9, 2] holds the log-probabilities of each token given what is known, for each partly known image.


def lookup(table: np.ndarray) -> unmask.Logits:
    table = jnp.asarray(table, jnp.float32)
    return lambda tokens, known: table[jnp.where(known, tokens, 2) @ POWERS]


def random_table() -> np.ndarray:
    """Of conditionals that do not agree with one another."""
    logits = 2 * np.random.default_rng(0).normal(size=(3**COUNT, COUNT, 2))
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


@functools.cache
def ideal() -> tuple[np.ndarray, np.ndarray]:
    """The probability of each image, at random, and the table that follows from it."""  # -> [512], [3^9, 9, 2]
    masses = np.random.default_rng(1).gamma(0.5, size=2**COUNT) + 1e-3
    masses /= masses.sum()
    agrees = ((PARTIAL[:, None] == TOKENS) | (PARTIAL[:, None] == 2)).all(-1) * masses  # [3^9, 512]
    upper = agrees @ TOKENS / agrees.sum(1, keepdims=True)
    return masses, np.log(np.maximum(np.stack([1 - upper, upper], axis=-1), 1e-30))


def log_probs(table: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Of each token of each image, given its known ones."""  # bool[9] -> f64[512, 9]
    rows = table[np.where(known, TOKENS, 2) @ POWERS]
    return np.take_along_axis(rows, TOKENS[..., None], axis=-1)[..., 0]


def any_order_masses(table: np.ndarray, known: np.ndarray = NOTHING) -> np.ndarray:
    """Of each image, given its `known` tokens: the mean over orders of the product of the conditionals."""  # -> [512]
    after = {tuple(known): np.ones(2**COUNT)}
    for remaining in range(COUNT - known.sum(), 0, -1):
        following = {}
        for state, masses in after.items():
            each = np.exp(log_probs(table, np.array(state)))
            for i in np.flatnonzero(~np.array(state)):
                key = (*state[:i], True, *state[i + 1 :])
                following[key] = following.get(key, 0) + masses * each[:, i] / remaining
        after = following
    return after[(True,) * COUNT]


def expected_bound(table: np.ndarray, bound=any_order.bound) -> np.ndarray:
    """Over the distribution of masks in the text: sizes equally likely, then masks of a size."""  # -> [512]
    logits = lookup(table)

    def at(known):
        known = jnp.broadcast_to(known, TOKENS.shape)
        return bound(logits(TOKENS, known), jnp.asarray(TOKENS), known)

    each = np.asarray(jax.lax.map(at, jnp.asarray(MASKS)), np.float64)  # [511, 512]
    return sum(x / COUNT / math.comb(COUNT, int((~m).sum())) for x, m in zip(each, MASKS, strict=True))


# ----------------------------------------------------------------------------------------------------- the bound


def check_tight(bound=any_order.bound) -> None:
    masses, table = ideal()
    np.testing.assert_allclose(expected_bound(table, bound), np.log(masses), atol=1e-4)


def test_the_bound_is_the_log_likelihood_for_the_ideal_network():
    check_tight()


def test_the_bound_lies_below_the_log_likelihood_of_any_network():
    table = random_table()
    masses = any_order_masses(table)
    np.testing.assert_allclose(masses.sum(), 1.0, atol=1e-9)
    assert (np.log(masses) - expected_bound(table) > 0.1).all()


def test_a_bound_that_weighs_all_sizes_alike_is_caught():
    def unweighted(logits, tokens, known):
        return any_order.bound(logits, tokens, known) * (~known).mean(axis=1) * 2

    with pytest.raises(AssertionError):
        check_tight(unweighted)


def check_masks(random_mask=any_order.random_mask) -> None:
    """Every mask as often as `expected_bound` takes it."""
    count, key = 200_000, jax.random.key(0)
    uniform = jax.random.uniform(key, (count,), minval=1e-7)
    known = random_mask(uniform, jax.random.split(key, count), COUNT)
    masses = [(not m.all()) / COUNT / math.comb(COUNT, max(1, int((~m).sum()))) for m in TOKENS > 0]
    enumeration.check_frequencies(2.0 * known[..., None, None] - 1, np.array(masses), 2)


def test_masks_are_of_every_size_alike():
    check_masks()
    largest = any_order.random_mask(jnp.full(1, 1 - 2.0**-24), jax.random.split(jax.random.key(0), 1), 784)
    assert not largest.any()


def test_masks_of_another_distribution_are_caught():
    with pytest.raises(AssertionError):
        check_masks(lambda uniform, keys, count: any_order.random_mask(uniform**1.05, keys, count))


# ------------------------------------------------------------------------------------------------------ sampling


def raster(keys, log_prob, remaining):
    return jnp.broadcast_to(-jnp.arange(COUNT, dtype=jnp.float32), log_prob.shape)


def raster_masses(table: np.ndarray, steps: int) -> np.ndarray:
    """Of each image, drawn in raster order, the tokens of a step independently of each other."""  # -> [512]
    total, place = 0.0, np.arange(COUNT)
    for first in range(0, COUNT, COUNT // steps):
        known = place < first
        total += log_probs(table, known)[:, (place >= first) & (place < first + COUNT // steps)].sum(1)
    return np.exp(total)


def draw(table, order, steps, image=None, known=NOTHING, samples=20_000):
    tokens = np.zeros(COUNT, np.int32) if image is None else image
    tokens, known = (jnp.broadcast_to(jnp.asarray(x), (samples, COUNT)) for x in (tokens, known))
    schedule = unmask.known_after("linear", steps, COUNT)
    keys = jax.random.split(jax.random.key(0), samples)
    drawn = jax.jit(lambda *x: unmask.unmask(lookup(table), order, schedule, *x))(tokens, known, keys)
    return 2.0 * np.asarray(drawn)[..., None, None] - 1


@pytest.mark.parametrize("steps", [9, 3, 1])
def test_a_fixed_order_is_ancestral_sampling(steps):
    """One token a step, of conditionals that do not agree; and several, independently."""
    table = random_table()
    enumeration.check_frequencies(draw(table, raster, steps), raster_masses(table, steps), 2)


def test_sampling_that_reads_ahead_is_caught():
    """Three tokens a step are not the distribution of one a step."""
    table = random_table()
    with pytest.raises(AssertionError):
        enumeration.check_frequencies(draw(table, raster, 3), raster_masses(table, 9), 2)


@pytest.mark.parametrize("order", [unmask.random_order, raster])
def test_the_ideal_network_is_sampled_and_inpainted_exactly_in_any_order(order):
    masses, table = ideal()
    enumeration.check_frequencies(draw(table, order, COUNT), masses, 2)
    known = np.isin(np.arange(COUNT), [2, 3, 7])
    drawn = draw(table, order, COUNT, TOKENS[300], known)
    agrees = (TOKENS[300] == TOKENS)[:, known].all(1)
    enumeration.check_frequencies(drawn, np.where(agrees, masses, 0), 2)


def test_the_likeliest_tokens_come_first():
    """Without noise, tokens of probability 1 are kept before the others, which are then drawn given them."""
    table = np.broadcast_to(np.log(0.5), (3**COUNT, COUNT, 2)).copy()
    table[:, 6:] = np.log([1e-30, 1.0])
    # Where the last three are known, the others are 1.
    table[(PARTIAL[:, 6:] == 1).all(1), :6] = np.log([1e-30, 1.0])
    assert (draw(table, unmask.confidence_order(0.0), 3, samples=100) == 1).all()
    assert not (draw(table, unmask.confidence_order(100.0), 3, samples=100) == 1).all()


@pytest.mark.parametrize("schedule", unmask.SCHEDULES)
@pytest.mark.parametrize(("steps", "count"), [(1, 5), (16, 784), (30, 49), (784, 784), (64, 9), (3, 4)])
def test_every_step_keeps_a_token_and_the_last_all(schedule, steps, count):
    known = unmask.known_after(schedule, steps, count)
    assert len(known) == min(steps, count) and known[-1] == count
    assert (np.diff(known, prepend=0) >= 1).all()


# ---------------------------------------------------------------------------------------------------- the family

OPTIMIZERS = {"model": core.Optimizer(optax.sgd(0.1))}


def build(**changes):
    """The family with a small DiT, its weights at random, and what its functions share."""
    options = masked.Options(**{"network": "dit", "patch": 1, "width": 8, "depth": 1, "heads": 2, **changes})
    family = masked.make(options, BINARY, OPTIMIZERS)
    batch = {"image": IMAGES[:2], "label": jnp.zeros(2, jnp.int32), "index": jnp.arange(2)}
    params = random_weights(lambda key: family.init(key, batch).params, jax.random.key(0), scale=1.5)
    return family, core.Weights(params, {}, {}), masked.setup(options, BINARY)


def predictions(shared, weights, condition=None, logits=masked.logits) -> np.ndarray:
    """The table of the network."""
    predict = jax.jit(logits(shared, weights.params["model"], condition))
    return np.asarray(jax.nn.log_softmax(predict(jnp.asarray(PARTIAL), jnp.asarray(PARTIAL < 2))))


def told(label: int, count: int) -> core.Batch:
    return {"label": jnp.full(count, label)}


def test_the_family_samples_and_inpaints_as_its_network_says_given_the_class():
    family, weights, shared = build(steps=COUNT, conditions=("label",))
    condition, count = told(2, 20_000), 20_000
    one, table = (predictions(shared, weights, told(label, len(PARTIAL))) for label in (1, 2))
    masses = any_order_masses(table)
    assert abs(masses - any_order_masses(one)).sum() > 0.1
    keys = jax.random.split(jax.random.key(0), count)
    enumeration.check_frequencies(jax.jit(family.sample)(weights, keys, condition), masses, 2)
    known, image = TOKENS[137] > 0, IMAGES[300]
    images, masks = (jnp.broadcast_to(x, (count, *x.shape)) for x in (image, known.reshape(3, 3)))
    drawn = jax.jit(family.inpaint)(weights, images, masks, keys, condition)
    agrees = (TOKENS[300] == TOKENS)[:, known].all(1)
    assert enumeration.check_frequencies(drawn, np.where(agrees, any_order_masses(table, known), 0), 2) < 0.02


def mean_log_prob(family, weights, draws: int = 400) -> tuple[np.ndarray, np.ndarray]:
    """Of 32 images: the mean over independent draws, and its standard error."""
    images = jnp.asarray(np.repeat(IMAGES[::16], draws, axis=0))
    batch = {"image": images, "index": jnp.arange(len(images))}
    found = np.asarray(jax.jit(family.log_prob)(weights, batch, jax.random.key(2)), np.float64).reshape(-1, draws)
    return found.mean(1), found.std(1) / np.sqrt(draws)


def test_the_estimate_of_the_bound_is_unbiased_and_ranges_of_sizes_lower_its_variance():
    errors = {}
    for count in (1, COUNT):
        family, weights, shared = build(likelihood_masks=count)
        mean, errors[count] = mean_log_prob(family, weights)
        expected = expected_bound(predictions(shared, weights))[::16]
        assert (abs(mean - expected) < 5 * errors[count]).all()
        assert abs((mean - expected).sum()) < 4 * np.sqrt((errors[count] ** 2).sum())
    assert errors[COUNT].mean() < 0.8 * errors[1].mean() / 3, "nine masks of all sizes are better than nine of any"


def test_the_loss_of_training_is_the_negative_bound():
    family, weights, shared = build()
    images = jnp.asarray(np.repeat(IMAGES[::16], 256, axis=0))
    batch = {"image": images, "index": jnp.arange(len(images))}
    state = core.init_state(weights.params, OPTIMIZERS)
    loss = jax.jit(family.train_step)(state, batch, jax.random.key(0))[1]["loss"]
    np.testing.assert_allclose(-loss, expected_bound(predictions(shared, weights))[::16].mean(), atol=0.1)


@pytest.mark.parametrize("network", [{"network": "dit", "patch": 3}, {"network": "unet", "multipliers": (1,)}])
def test_known_values_are_seen_and_masked_ones_are_not(network):
    _, weights, shared = build(**network)
    predict = jax.jit(masked.logits(shared, weights.params["model"], None))
    known = jnp.broadcast_to(jnp.arange(COUNT) % 2 == 0, (2, COUNT))
    tokens = jnp.zeros((2, COUNT), jnp.int32)
    plain = predict(tokens, known)
    for i in range(COUNT):
        changed = predict(tokens.at[0, i].set(1), known)
        np.testing.assert_array_equal(changed[1], plain[1])
        assert np.array_equal(changed[0], plain[0]) == (not known[0, i])
    for level in range(2):  # a masked value is like no level
        one, other = predict(jnp.full((2, COUNT), level), jnp.eye(2, COUNT, dtype=bool))
        assert not np.array_equal(one, other)


# ---------------------------------------------------------------------------------------------------- conditions


def test_guidance_0_is_told_nothing_and_1_is_the_model_itself():
    condition = told(2, len(PARTIAL))
    _, weights, shared = build(conditions=("label",))
    given, hidden = (predictions(shared, weights, told) for told in (condition, None))
    assert abs(given - hidden).max() > 0.1

    def guided(weight):
        changed = shared._replace(options=dataclasses.replace(shared.options, guidance=weight))
        return predictions(changed, weights, condition, masked.guided_logits)

    np.testing.assert_array_equal(guided(0.0), hidden)
    np.testing.assert_array_equal(guided(1.0), given)
    expected = 3 * given - 2 * hidden
    np.testing.assert_allclose(guided(3.0), expected - np.logaddexp.reduce(expected, -1, keepdims=True), atol=1e-4)


def test_guidance_needs_a_condition():
    with pytest.raises(ConfigError, match="nothing to be guided by"):
        build(guidance=2.0)


def test_all_hidden_in_training_is_as_if_told_nothing():
    """With a dropout of 1 the class changes no gradient."""
    family, weights, _ = build(conditions=("label",), condition_dropout=1.0)
    state = core.init_state(weights.params, OPTIMIZERS)
    batch = {"image": IMAGES[:8], "index": jnp.arange(8)}
    step = jax.jit(family.train_step)
    one, two = (step(state, {**batch, **told(label, 8)}, jax.random.key(0))[0].params for label in (1, 2))
    jax.tree.map(np.testing.assert_array_equal, one, two)
