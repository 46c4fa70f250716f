"""The Dirac-GAN (Mescheder et al. 2018, section 2): which losses and penalties converge, by theory and in training.

The data is a point at 0, the generator's output is theta, and D(x) = psi x. The logit of the data is always 0 and that
of the output is psi theta. With the derivatives d' and g' of both players' losses by the fake logit, a step is

    psi'   = psi - h_d (d'(psi theta) theta + gamma c psi)
    theta' = theta - h_g g'(psi' theta) psi'

c is the penalty's curvature in psi. The gradient of D is psi everywhere: R1 and R2 are psi^2 / 2, so c = 1, and their
sum has c = 2. The gradient penalty (|psi| - 1)^2 has c = 2, and pulls psi to its sign instead of 0. Where both logits
are 0, the derivative of a step by (theta, psi) is the product of the generator's and the discriminator's:

    [1 - h_g g'' psi'^2   -h_g g']   [   1                         0                   ]
    [        0               1   ]   [-h_d d'   1 - h_d (d'' theta^2 + gamma c)]

At theta = psi = 0 its determinant is 1 - h_d gamma c, and its trace is 1 + determinant + h_g h_d d' g'. So without a
penalty both eigenvalues of small steps lie on the unit circle, and training circles. With R1 or R2 their size is
sqrt(1 - h_d gamma c), unless gamma is so large that they are real.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from genimg_jax import core
from genimg_jax.families import adversarial
from genimg_jax.families.adversarial import Discriminated, Game, Generated
from genimg_jax.objectives.adversarial import LOSSES, PENALTIES

# By loss: d', d'', g', g'' at the fake logit 0, which is the target of least squares for fake inputs: there d' = 0, and
# nothing brings theta back to the data.
DERIVATIVES = {
    "non_saturating": (0.5, 0.25, -0.5, 0.25),
    "least_squares": (0.0, 1.0, -1.0, 1.0),
    "hinge": (1.0, 0.0, -1.0, 0.0),
    "wasserstein": (1.0, 0.0, -1.0, 0.0),
    "relativistic": (0.5, 0.25, -0.5, 0.25),
}
CURVATURES = {"none": 0.0, "r1": 1.0, "r2": 1.0, "r1_r2": 2.0, "gradient_penalty": 2.0}
SMOOTH = [name for name in PENALTIES if name != "gradient_penalty"]
STEPS, OFFSET = 500, 1e-2


@dataclasses.dataclass(frozen=True)
class Trial:
    theta: float
    psi: float
    generator_rate: float = 0.12
    discriminator_rate: float = 0.08
    weight: float = 0.3

    def moved(self, theta: float, psi: float) -> "Trial":
        return dataclasses.replace(self, theta=self.theta + theta, psi=self.psi + psi)


POINTS = [Trial(0.0, 0.0), Trial(0.0, 1.0), Trial(0.0, -1.0), Trial(0.7, 0.0)]
NEAR, LARGE_STEPS = Trial(1e-5, 2e-5), Trial(2e-6, 1e-6, 5.0, 4.0, 0.01)
LARGE_WEIGHT = Trial(1e-6, 2e-6, weight=40.0)
FAR, BEYOND_HINGE = Trial(0.6, 0.8), Trial(2.0, -1.0)
RESTING, FIXED_GENERATOR = Trial(0.0, 0.0), Trial(0.0, -0.2, generator_rate=0.0)
SHIFTS = ((OFFSET, 0.0), (-OFFSET, 0.0), (0.0, OFFSET), (0.0, -OFFSET))
TRIALS = [NEAR, LARGE_STEPS, LARGE_WEIGHT, FAR, BEYOND_HINGE, RESTING, FIXED_GENERATOR]
TRIALS += [point.moved(*shift) for point in POINTS for shift in SHIFTS]


def generate(params, model_state, batch, key, training):
    return Generated(batch["image"], jnp.broadcast_to(params, batch["image"].shape))


def discriminate(params, model_state, inputs, batch, training):
    return Discriminated((params * inputs,))


@functools.cache
def paths(loss: str, penalty: str) -> dict[Trial, np.ndarray]:
    """(theta, psi) of each trial after 0, 1, ... alternating steps of training."""  # f64[STEPS + 1, 2]

    def path(theta, psi, generator_rate, discriminator_rate, weight):
        rates = {"generator": generator_rate, "discriminator": discriminator_rate}
        optimizers = {group: core.Optimizer(optax.sgd(rate)) for group, rate in rates.items()}
        game = Game(optimizers, adversarial.Options(penalty, weight), LOSSES[loss], generate, discriminate)
        batch, key = {"image": jnp.zeros(1), "index": jnp.arange(1)}, jax.random.key(0)

        def step(state, _):
            state, _ = adversarial.train_discriminator(game, state, batch, key)
            state, _ = adversarial.train_generator(game, state, batch, key)
            return state, (state.params["generator"], state.params["discriminator"])

        start = core.init_state({"generator": theta, "discriminator": psi}, optimizers)
        return jax.lax.scan(step, start, length=STEPS)[1]

    values = np.float32([dataclasses.astuple(trial) for trial in TRIALS])
    later = np.stack(jax.jit(jax.vmap(path))(*values.T), axis=-1)
    return dict(zip(TRIALS, np.concatenate([values[:, None, :2], later], axis=1).astype(np.float64), strict=True))


def theory(loss: str, penalty: str, at: Trial) -> np.ndarray:  # -> f64[2, 2]
    """The derivative of a step by (theta, psi), where both players' logits are 0."""
    (d1, d2, g1, g2), c = DERIVATIVES[loss], CURVATURES[penalty]
    rest = np.sign(at.psi) if penalty == "gradient_penalty" else 0
    psi = at.psi - at.discriminator_rate * (d1 * at.theta + at.weight * c * (at.psi - rest))
    assert at.theta * at.psi == at.theta * psi == 0
    curvature = d2 * at.theta**2 + at.weight * c
    by_discriminator = np.array([[1, 0], [-at.discriminator_rate * d1, 1 - at.discriminator_rate * curvature]])
    by_generator = np.array([[1 - at.generator_rate * g2 * psi**2, -at.generator_rate * g1], [0, 1]])
    return by_generator @ by_discriminator


def largest_eigenvalue(loss: str, penalty: str, trial: Trial) -> float:
    """At theta = psi = 0, from the determinant and the trace."""
    (d1, _, g1, _), h_g, h_d = DERIVATIVES[loss], trial.generator_rate, trial.discriminator_rate
    determinant = 1 - h_d * trial.weight * CURVATURES[penalty]
    return abs(np.roots([1, -(1 + determinant + h_g * h_d * d1 * g1), determinant])).max()


def linear_path(loss: str, penalty: str, trial: Trial, steps: int) -> np.ndarray:  # -> f64[steps + 1, 2]
    matrix = theory(loss, penalty, dataclasses.replace(trial, theta=0.0, psi=0.0))
    return np.array([np.linalg.matrix_power(matrix, n) @ (trial.theta, trial.psi) for n in range(steps + 1)])


def close_to_linear(loss: str, penalty: str, trial: Trial, steps: int) -> np.ndarray:  # -> f64[steps + 1]
    """The distances to the equilibrium, in units of the first, after comparing them with the linear system's."""
    both = paths(loss, penalty)[trial][: steps + 1], linear_path(loss, penalty, trial, steps)
    sizes, expected = (np.linalg.norm(path, axis=1) / np.hypot(trial.theta, trial.psi) for path in both)
    np.testing.assert_allclose(sizes, expected, rtol=1e-4, atol=1e-6)
    return sizes


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", PENALTIES)
def test_a_step_has_the_derivative_that_theory_gives(loss, penalty):
    """At the equilibrium, and at psi = 1 and -1. The gradient penalty has no derivative at psi = 0. Least squares rests
    at psi = 0 for every theta."""
    for point in POINTS:
        if (penalty == "gradient_penalty" and point.psi == 0) or (point.theta and loss != "least_squares"):
            continue
        columns = [paths(loss, penalty)[point.moved(*shift)][1] for shift in SHIFTS]
        measured = np.stack([columns[0] - columns[1], columns[2] - columns[3]], axis=1) / (2 * OFFSET)
        expected = theory(loss, penalty, point)
        np.testing.assert_allclose(measured, expected, atol=1e-4, err_msg=str(point))
        eigenvalues = [np.sort_complex(np.linalg.eigvals(matrix)) for matrix in (measured, expected)]
        np.testing.assert_allclose(*eigenvalues, atol=1e-4, err_msg=str(point))
        if point.theta == point.psi == 0:
            assert abs(eigenvalues[0]).max() == pytest.approx(largest_eigenvalue(loss, penalty, point), abs=1e-4)


@pytest.mark.parametrize("loss", [name for name in LOSSES if name != "least_squares"])
@pytest.mark.parametrize("penalty", SMOOTH)
def test_training_circles_without_a_penalty_and_converges_with_one(loss, penalty):
    sizes, largest = close_to_linear(loss, penalty, NEAR, STEPS), largest_eigenvalue(loss, penalty, NEAR)
    expected = 1 - NEAR.discriminator_rate * NEAR.weight * CURVATURES[penalty]
    assert largest == pytest.approx(expected**0.5)
    if penalty == "none":
        assert sizes.min() > 0.5 and sizes.max() < 2
    else:
        assert sizes[-1] < 4 * largest**STEPS < 0.02


@pytest.mark.parametrize("penalty", SMOOTH)
def test_least_squares_does_not_return_to_the_data(penalty):
    """The eigenvalues are 1 and 1 - h_d gamma c. A penalty flattens the discriminator, which then moves nothing."""
    close_to_linear("least_squares", penalty, NEAR, STEPS)
    assert largest_eigenvalue("least_squares", penalty, NEAR) == pytest.approx(1)
    theta, psi = paths("least_squares", penalty)[NEAR][-1]
    assert theta > 4 * NEAR.theta and (psi < 1e-3 * NEAR.psi) == (penalty != "none")


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("penalty", SMOOTH)
def test_training_diverges_with_large_steps_or_a_large_weight(loss, penalty):
    for trial, diverges in ((LARGE_STEPS, loss != "least_squares"), (LARGE_WEIGHT, penalty != "none")):
        sizes = close_to_linear(loss, penalty, trial, 4)
        assert (largest_eigenvalue(loss, penalty, trial) > 1.5) == diverges
        assert not diverges or sizes[-1] > 1.5**4


@pytest.mark.parametrize("loss", ["wasserstein", "hinge", "non_saturating"])
@pytest.mark.parametrize("penalty", SMOOTH)
def test_the_linear_losses_are_so_at_any_distance(loss, penalty):
    """The hinge while psi theta > -1, as here. The cross-entropy is not."""
    path = paths(loss, penalty)[FAR]
    difference = np.linalg.norm(path - linear_path(loss, penalty, FAR, STEPS), axis=1).max()
    assert difference > 0.01 if loss == "non_saturating" else difference < 1e-4 and path.prod(1).min() > -1


@pytest.mark.parametrize("penalty", PENALTIES)
def test_behind_its_hinge_only_the_penalty_moves_the_discriminator(penalty):
    trial, rest = BEYOND_HINGE, -1 if penalty == "gradient_penalty" else 0
    decay = trial.discriminator_rate * trial.weight * CURVATURES[penalty]
    psi = trial.psi - decay * (trial.psi - rest)
    expected = trial.theta + trial.generator_rate * psi, psi
    np.testing.assert_allclose(paths("hinge", penalty)[trial][1], expected, rtol=1e-6)


# --------------------------------------------------------------------------------- the gradient penalty, to norm 1


@pytest.mark.parametrize("loss", LOSSES)
def test_the_gradient_penalty_pushes_training_away_from_the_equilibrium(loss):
    """It rests only exactly there, where the norm's derivative is taken to be 0. Beside it psi jumps by 2 h_d gamma,
    and training never comes back. With a fixed generator psi converges to its sign at a rate of 1 - 2 h_d gamma."""
    found, jump = paths(loss, "gradient_penalty"), 2 * NEAR.discriminator_rate * NEAR.weight
    assert (found[RESTING] == 0).all()
    assert found[NEAR][1, 1] == pytest.approx(jump, abs=1e-4)
    distance = np.linalg.norm(found[NEAR], axis=1)
    assert distance[1:].min() > 0.9 * jump and distance[-100:].min() > 0.9
    expected = -1 + (1 + FIXED_GENERATOR.psi) * (1 - jump) ** np.arange(STEPS + 1)
    np.testing.assert_allclose(found[FIXED_GENERATOR][:, 1], expected, atol=1e-5)


def test_a_wasserstein_gan_with_a_gradient_penalty_is_linear_between_signs():
    """Each half plane of psi has its own linear step, from the first of the formulas above with psi - sign(psi)."""
    theta, psi = FAR.theta, FAR.psi
    for found in paths("wasserstein", "gradient_penalty")[FAR]:
        np.testing.assert_allclose(found, (theta, psi), atol=1e-4)
        psi -= FAR.discriminator_rate * (theta + 2 * FAR.weight * (psi - np.sign(psi)))
        theta += FAR.generator_rate * psi
