"""Adversarial losses against closed forms and known optima; penalties against critics with known gradients."""

import jax
import jax.numpy as jnp
import needs
import numpy as np
import pytest
import scipy.optimize

from genimg_jax.core import per_example_keys
from genimg_jax.objectives.adversarial import LOSSES, PENALTIES, gradient_penalty, lazily, r1, r1_r2, r2

LOGITS = np.array([-200.0, -3.0, -1.0, -0.2, 0.0, 0.5, 1.0, 4.0, 200.0])
PAIRS = tuple(a.ravel() for a in np.meshgrid(LOGITS, LOGITS))
SHAPE = (4, 3, 2)


def float32(*arrays):
    return tuple(jnp.asarray(a, jnp.float32) for a in arrays)


CLOSED_FORMS = {
    "non_saturating": (lambda r, f: np.logaddexp(0, -r) + np.logaddexp(0, f), lambda r, f: np.logaddexp(0, -f)),
    "least_squares": (lambda r, f: ((r - 1) ** 2 + f**2) / 2, lambda r, f: (f - 1) ** 2 / 2),
    "hinge": (lambda r, f: np.maximum(0, 1 - r) + np.maximum(0, 1 + f), lambda r, f: -f),
    "wasserstein": (lambda r, f: f - r, lambda r, f: -f),
    "relativistic": (lambda r, f: np.logaddexp(0, f - r), lambda r, f: np.logaddexp(0, r - f)),
}


@pytest.mark.parametrize("name", LOSSES)
def test_losses_match_closed_forms(name):
    discriminator, generator = CLOSED_FORMS[name]
    np.testing.assert_allclose(
        LOSSES[name].discriminator(*float32(*PAIRS)), discriminator(*PAIRS), rtol=1e-6, atol=1e-30
    )
    np.testing.assert_allclose(LOSSES[name].generator(*float32(*PAIRS)), generator(*PAIRS), rtol=1e-6, atol=1e-30)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_are_float32_and_finite_with_their_gradients(name):
    half = tuple(jnp.asarray(a, jnp.bfloat16) for a in PAIRS)
    exact = LOSSES[name].discriminator(*(a.astype(jnp.float32) for a in half))
    np.testing.assert_array_equal(LOSSES[name].discriminator(*half), exact)
    assert LOSSES[name].generator(*half).dtype == jnp.float32
    real, fake = jax.grad(lambda r, f: LOSSES[name].discriminator(r, f).sum(), argnums=(0, 1))(*float32(*PAIRS))
    assert np.isfinite(real).all() and (np.asarray(real) <= 0)[PAIRS[0] < 1].all()
    assert np.isfinite(fake).all() and (np.asarray(fake) >= 0)[PAIRS[1] > 0].all()
    by_fake = jax.grad(lambda f, r: LOSSES[name].generator(r, f).sum())(*float32(*PAIRS[::-1]))
    assert np.isfinite(by_fake).all() and (by_fake <= 0)[PAIRS[1] < 1].all() and (by_fake < 0)[PAIRS[1] == 0].sum() > 5


@pytest.mark.parametrize(
    ("name", "optimum"),
    [
        ("non_saturating", lambda p, q: np.log(p / q)),
        ("least_squares", lambda p, q: p / (p + q)),
        ("hinge", lambda p, q: np.sign(p - q)),
    ],
)
@pytest.mark.parametrize("p", [0.1, 0.45, 0.8])
def test_optimal_discriminator(name, optimum, p):
    """Where real and fake images have densities p and q, the best logit is known."""
    q = 1 - p

    def expected_loss(logit):  # but for a constant
        logit, zero = jnp.full(1, logit, jnp.float32), jnp.zeros(1)
        loss = LOSSES[name].discriminator
        return float((p * loss(logit, zero) + q * loss(zero, logit))[0])

    found = scipy.optimize.minimize_scalar(expected_loss, bounds=(-5, 5), method="bounded", options={"xatol": 1e-4}).x
    np.testing.assert_allclose(found, optimum(p, q), atol=5e-3)


def test_undecided_non_saturating_losses_are_log_two():
    zero = jnp.zeros(1)
    np.testing.assert_allclose(LOSSES["non_saturating"].generator(zero, zero), np.log(2), rtol=1e-6)
    np.testing.assert_allclose(LOSSES["non_saturating"].discriminator(zero, zero), 2 * np.log(2), rtol=1e-6)


def test_losses_match_torch():
    torch = needs.module("torch")
    functional = torch.nn.functional
    real, fake = (torch.tensor(a, dtype=torch.float32) for a in PAIRS)

    def cross_entropy(logits, target):
        return functional.binary_cross_entropy_with_logits(logits, torch.full_like(logits, target), reduction="none")

    expected = cross_entropy(real, 1.0) + cross_entropy(fake, 0.0)
    found = LOSSES["non_saturating"].discriminator(*float32(*PAIRS))
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6)
    np.testing.assert_allclose(
        LOSSES["non_saturating"].generator(*float32(*PAIRS)), cross_entropy(fake, 1.0).numpy(), rtol=1e-6
    )


def images(seed, count=5):  # -> f32[count, *SHAPE]
    return jax.random.normal(jax.random.key(seed), (count, *SHAPE))


def quadratic(x):  # [B, *SHAPE] -> [B]: the gradient of |x|^2 / 2 is x
    return 0.5 * jnp.square(x).sum(axis=(1, 2, 3))


def mlp(x):  # [B, *SHAPE] -> [B]
    first, second = (jax.random.normal(jax.random.key(s), shape) for s, shape in ((8, (24, 6)), (9, (6, 1))))
    return (jnp.tanh(x.reshape(len(x), -1) @ first) @ second)[:, 0]


KEYS = per_example_keys(jax.random.key(5), jnp.arange(5))


def test_penalties_of_a_linear_critic():
    slope = images(0, 1)

    def linear(x):  # [B, *SHAPE] -> [B]
        return (x * slope).sum(axis=(1, 2, 3))

    norm = np.linalg.norm(slope)
    for zero_centred in (r1, r2):
        penalty = zero_centred(linear, images(1), images(2), KEYS)
        np.testing.assert_allclose(penalty, np.full(5, 0.5 * norm**2), rtol=1e-5)
    np.testing.assert_allclose(r1_r2(linear, images(1), images(2), KEYS), np.full(5, norm**2), rtol=1e-5)
    penalty = gradient_penalty(linear, images(1), images(2), KEYS)
    np.testing.assert_allclose(penalty, np.full(5, (norm - 1) ** 2), rtol=1e-5)


@pytest.mark.parametrize(("penalty", "seed"), [(r1, 1), (r2, 2)])
def test_r1_looks_at_the_real_images_and_r2_at_the_others(penalty, seed):
    expected = 0.5 * np.square(images(seed)).sum(axis=(1, 2, 3))
    np.testing.assert_allclose(penalty(quadratic, images(1), images(2), KEYS), expected, rtol=1e-5)


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty"])
def test_the_parts_of_what_is_judged_count_together(name):
    """A tree of inputs is penalised as one vector of all their values."""

    def parts(x):
        return {"upper": x[:, :1], "lower": (x[:, 1:],)}

    def judge(x):
        return mlp(jnp.concatenate([x["upper"], x["lower"][0]], axis=1))

    whole = PENALTIES[name](mlp, images(1), images(2), KEYS)
    np.testing.assert_allclose(PENALTIES[name](judge, parts(images(1)), parts(images(2)), KEYS), whole, rtol=1e-5)


@pytest.mark.parametrize("every", [1, 4])
def test_a_lazy_penalty_is_the_same_on_average(every):
    """So are its gradients; all of it comes in one step."""

    def value(scale, step):
        return lazily(every, step, lambda: r1(lambda x: scale * mlp(x), images(1), images(2), KEYS).mean())

    steps = jnp.arange(8, 8 + every)
    values, gradients = jax.jit(jax.vmap(jax.value_and_grad(value), (None, 0)))(0.5, steps)
    once, gradient = jax.value_and_grad(lambda s: r1(lambda x: s * mlp(x), images(1), images(2), KEYS).mean())(0.5)
    np.testing.assert_allclose((values.mean(), gradients.mean()), (once, gradient), rtol=1e-5)
    assert np.count_nonzero(values) == np.count_nonzero(gradients) == 1 and values[0] > 0


def test_gradient_penalty_interpolates_each_example_by_its_own_key():
    """The norm at real + share * direction gives each example's share away."""
    real, fake = jnp.zeros((5, *SHAPE)), images(2)
    distance = np.sqrt(gradient_penalty(lambda x: quadratic(10 * x) / 10, real, fake, KEYS)) + 1  # always above 1 here
    share = distance / (10 * np.linalg.norm(np.reshape(fake, (5, -1)), axis=1))
    assert ((share > 0) & (share < 1)).all()
    assert len(np.unique(np.round(share, 4))) == 5


def test_r1_matches_finite_differences():
    real, step = images(1, 1), 1e-2
    directions = step * np.eye(24, dtype=np.float32).reshape(24, *SHAPE)
    ahead, behind = (mlp(np.asarray(real) + sign * directions) for sign in (1, -1))
    expected = 0.5 * np.square((ahead - behind) / (2 * step)).sum()
    np.testing.assert_allclose(r1(mlp, real, real, KEYS[:1]), [expected], rtol=2e-2)


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty"])
def test_penalties_are_per_example(name):
    order = jnp.array([3, 0, 4])
    whole = PENALTIES[name](mlp, images(1), images(2), KEYS)
    part = PENALTIES[name](mlp, images(1)[order], images(2)[order], KEYS[order])
    np.testing.assert_allclose(part, whole[order], rtol=1e-5)


@pytest.mark.parametrize("name", PENALTIES)
def test_penalties_of_a_flat_critic_can_be_differentiated(name):
    """The gradient of the norm at zero, where an untrained critic may be."""

    def penalty(scale):
        return PENALTIES[name](lambda x: scale * mlp(x), images(1), images(2), KEYS).mean()

    value, gradient = jax.value_and_grad(penalty)(0.0)
    np.testing.assert_allclose(value, 1.0 if name == "gradient_penalty" else 0.0)
    assert np.isfinite(gradient)


@pytest.mark.parametrize("name", ["r1", "r2", "gradient_penalty"])
def test_penalties_train_the_critic(name):
    def penalty(scale):
        return PENALTIES[name](lambda x: scale * mlp(x), images(1), images(2), KEYS).mean()

    finite_difference = (penalty(0.5 + 1e-2) - penalty(0.5 - 1e-2)) / 2e-2
    np.testing.assert_allclose(jax.grad(penalty)(0.5), finite_difference, rtol=1e-2)


def test_r1_matches_torch():
    torch = needs.module("torch")
    x = torch.tensor(np.asarray(images(1)).reshape(5, -1), requires_grad=True)
    first, second = (
        torch.tensor(np.asarray(jax.random.normal(jax.random.key(s), shape)))
        for s, shape in ((8, (24, 6)), (9, (6, 1)))
    )
    (gradient,) = torch.autograd.grad((torch.tanh(x @ first) @ second).sum(), x)
    found = r1(mlp, images(1), images(2), KEYS)
    np.testing.assert_allclose(found, 0.5 * gradient.square().sum(dim=1).numpy(), rtol=1e-4)


def test_a_penalty_needs_no_reversed_convolution():
    """XLA's CPU backend runs these by its slowest code. Differentiating in reverse mode twice makes them."""
    random = np.random.default_rng(0)
    kernels = [jnp.asarray(random.normal(size=(4, 4, *channels)), jnp.float32) for channels in ((3, 8), (8, 16))]
    images = jnp.asarray(random.normal(size=(2, 16, 16, 3)), jnp.float32)

    def logits(kernels, x):
        for kernel in kernels:
            numbers = ("NHWC", "HWIO", "NHWC")
            x = jnp.tanh(jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=numbers))
        return x.sum((1, 2, 3))

    def ours(kernels):
        return r1(lambda x: logits(kernels, x), images, images, None).mean()

    def twice(kernels):
        gradient = jax.grad(lambda x: logits(kernels, x).sum())(images)
        return 0.5 * jnp.square(gradient).sum((1, 2, 3)).mean()

    compiled = [jax.jit(jax.grad(function)).lower(kernels).compile() for function in (ours, twice)]
    for a, b in zip(compiled[0](kernels), compiled[1](kernels), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
    assert ["rhs_reversal" in program.as_text() for program in compiled] == [False, True]
