"""Codes z of a decoder given an observation y of its image: p(z | y) ~ p(z) p(y | z), with the prior z ~ N(0, 1).

VAEs and GANs have such codes. Adam finds the most probable code (Bora et al. 2017, with the log prior as the penalty).
Markov chains of BlackJAX sample codes: the Metropolis-adjusted Langevin algorithm (Roberts and Tweedie 1996) and
Hamiltonian Monte Carlo (Neal 2011). Each row has its own chain, whose last state is the sample, so rows are independent
samples. Chains rarely change between separate modes: the share of each mode is decided by where the chains start.
`resample_prior` starts them in each mode as often as the posterior does, if some of its draws are near the modes. With
few draws or many observed pixels they are not, and samples then miss modes; the likelihood is not annealed.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from genimg_jax import core
from genimg_jax.errors import ConfigError

RATE = 0.1  # Adam's, in standard deviations of the prior
LEAPFROGS = 16  # steps of a Hamiltonian trajectory
FIRST_STEP_SIZE = 0.1  # of a chain, before it is adapted
JITTER = 0.2  # relative, of step sizes: trajectories of equal lengths can be periodic (Neal 2011)

LogLikelihood = Callable[[jax.Array, core.Batch], jax.Array]
"""(codes [B, ...], data) -> f32[B], log p(y | z) in nats up to a constant. Data are a batch: the observation and the
condition, whose entries are all [B, ...]. Row i of the result depends on row i of both alone."""


class Draws(NamedTuple):
    """Codes of a batch, and how they were reached."""

    codes: jax.Array  # [B, ...]
    trace: jax.Array  # [B, T, ...]: states of each chain after warm-up, of which `codes` are the last
    acceptance: jax.Array  # f32[B]: mean acceptance probability after warm-up; 1 without rejection


class Solver(NamedTuple):
    """One way to find codes. Row i of the result depends on keys[i] and row i of the data alone."""

    start: Callable[[LogLikelihood, core.Batch, tuple[int, ...], jax.Array, int], jax.Array]
    """(log likelihood, data, shape of a code, keys[B], number of prior draws) -> codes [B, ...]."""
    solve: Callable[[LogLikelihood, core.Batch, jax.Array, jax.Array, int], Draws]
    """(log likelihood, data, start [B, ...], keys[B], steps) -> draws. The start may be an encoder's code instead."""
    about: str


def gaussian(predict: Callable[[jax.Array, core.Batch], jax.Array], noise: float) -> LogLikelihood:
    """log N(y; predict(z), noise^2) without its constant, where y is data["observed"].

    `predict(codes, data)` applies the observation to decoded images. `noise` is its standard deviation, in which the
    decoder's own error belongs too. Raises `ConfigError` unless it is positive: else there is no density.
    """
    if not noise > 0:
        raise ConfigError(
            f"The observation's noise is {noise}, but a posterior over codes needs noise above 0, "
            "such as the decoder's usual error."
        )

    def log_likelihood(codes: jax.Array, data: core.Batch) -> jax.Array:
        return -0.5 * _squared_norm((data["observed"] - predict(codes, data)) / noise)

    return log_likelihood


def log_posterior(log_likelihood: LogLikelihood, data: core.Batch, codes: jax.Array) -> jax.Array:
    """log p(z) p(y | z) in nats, up to a constant."""  # -> f32[B]
    return log_likelihood(codes, data) - 0.5 * _squared_norm(codes)


# ------------------------------------------------------------------------------------------------- optimisation


def best_of(
    draw: Callable[[jax.Array], jax.Array], loss: Callable[[jax.Array, jax.Array], jax.Array], count: int
) -> tuple[jax.Array, jax.Array]:
    """Each row's code of least loss(codes, i) f32[B] among draw(0) to draw(count - 1).

    Also the standard deviation of each row's draws, NaN for a single one.
    """  # -> [B, ...], f32[B]

    def better(i, best):
        codes = draw(i)
        value, spread = loss(codes, i), best[2] + jnp.square(codes - first).mean(_axes(codes))
        improved = value < best[1]
        return _where(improved, codes, best[0]), jnp.where(improved, value, best[1]), spread

    first = draw(0)
    initial = first, loss(first, 0), jnp.zeros(len(first))
    codes, _, spread = jax.lax.fori_loop(1, count, better, initial)
    # The mean squared difference of two draws is twice their variance.
    return codes, jnp.sqrt(spread / (2 * (count - 1)) if count > 1 else jnp.full_like(spread, jnp.nan))


def descend(
    loss: Callable[[jax.Array], jax.Array], start: jax.Array, scale: jax.Array, steps: int
) -> jax.Array:  # f32[B] -> [B, ...]
    """Each row's code of least loss(codes) f32[B] on the path of `steps` steps of Adam.

    The rate is 0.1 of the row's `scale` at first, and falls to 0 as half a cosine.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(RATE, max(steps, 1)))
    scale = _like(scale, start)

    def total(codes: jax.Array) -> tuple[jax.Array, jax.Array]:
        each = loss(codes)
        return each.sum(), each

    def step(_, carry):
        codes, state, best, least = carry
        (_, value), gradient = jax.value_and_grad(total, has_aux=True)(codes)
        best, least = _where(value < least, codes, best), jnp.minimum(value, least)
        updates, state = optimizer.update(gradient * scale, state)
        return codes + updates * scale, state, best, least

    initial = start, optimizer.init(start), start, jnp.full(len(start), jnp.inf)
    # One step more: the loss of the last codes is computed too.
    return jax.lax.fori_loop(0, steps + 1, step, initial)[2]


def best_of_prior(
    log_likelihood: LogLikelihood, data: core.Batch, shape: tuple[int, ...], keys: jax.Array, count: int
) -> jax.Array:
    """Each row's code of highest posterior density among `count` draws of the prior."""  # key[B] -> [B, *shape]
    return _choose(lambda codes, i: -log_posterior(log_likelihood, data, codes), shape, keys, count)


def resample_prior(
    log_likelihood: LogLikelihood, data: core.Batch, shape: tuple[int, ...], keys: jax.Array, count: int
) -> jax.Array:
    """One of `count` draws of the prior, chosen with probability proportional to its likelihood.

    Sampling importance resampling (Rubin 1987): samples of the posterior as `count` grows. The largest sum of a log
    likelihood and Gumbel noise makes the choice, so that no draws are stored.
    """  # key[B] -> [B, *shape]

    def loss(codes: jax.Array, i: jax.Array) -> jax.Array:
        noise = jax.vmap(jax.random.gumbel)(core.fold_in(core.fold_in(keys, 1), i))
        return -log_likelihood(codes, data) - noise

    return _choose(loss, shape, keys, count)


def _choose(loss: Callable, shape: tuple[int, ...], keys: jax.Array, count: int) -> jax.Array:
    first = core.fold_in(keys, 0)
    return best_of(lambda i: core.normal(core.fold_in(first, i), shape), loss, count)[0]


def optimise(log_likelihood: LogLikelihood, data: core.Batch, start: jax.Array, keys: jax.Array, steps: int) -> Draws:
    """A mode of the posterior near the start. With Gaussian noise and a linear decoder it is ridge regression."""

    def loss(codes: jax.Array) -> jax.Array:
        return -log_posterior(log_likelihood, data, codes)

    ones = jnp.ones(len(start))
    codes = descend(loss, start, ones, steps)
    return Draws(codes, codes[:, None], ones)


# ------------------------------------------------------------------------------------------------ Markov chains


LogDensity = Callable[[jax.Array], jax.Array]  # f32[D] -> f32[]


def _langevin(log_density: LogDensity, size: int, step_size: jax.Array):
    import blackjax  # here: the import takes a second

    return blackjax.mala(log_density, step_size)


def _hamiltonian(log_density: LogDensity, size: int, step_size: jax.Array):
    import blackjax

    return blackjax.hmc(log_density, step_size, jnp.ones(size), LEAPFROGS)


def _chains(
    algorithm: Callable,
    target: float,
    log_likelihood: LogLikelihood,
    data: core.Batch,
    start: jax.Array,
    keys: jax.Array,
    steps: int,
) -> Draws:
    """A chain of 2 or more transitions from each start. The first half is warm-up, in which dual averaging of the step
    size brings the mean acceptance probability to the `target` (Hoffman and Gelman 2014, section 3.2)."""
    from blackjax.adaptation.step_size import dual_averaging_adaptation

    adapt_init, adapt, adapted = dual_averaging_adaptation(target)

    def chain(key: jax.Array, start: jax.Array, data: core.Batch) -> Draws:
        row = jax.tree.map(lambda x: x[None], data)

        def log_density(code: jax.Array) -> jax.Array:
            return log_posterior(log_likelihood, row, code.reshape(1, *start.shape))[0]

        def transition(state, i, step_size):
            jitter_key, step_key = jax.random.split(jax.random.fold_in(key, i))
            jittered = step_size * (1 + JITTER * jax.random.uniform(jitter_key, minval=-1.0))
            return algorithm(log_density, start.size, jittered).step(step_key, state)

        def warm_up(carry, i):
            state, rate = carry
            state, info = transition(state, i, jnp.exp(rate.log_step_size))
            return (state, adapt(rate, info.acceptance_rate)), None

        def advance(state, i):
            state, info = transition(state, i, adapted(rate))
            return state, (state.position, info.acceptance_rate)

        state = algorithm(log_density, start.size, FIRST_STEP_SIZE).init(start.ravel())
        first = state, adapt_init(jnp.float32(FIRST_STEP_SIZE))
        (state, rate), _ = jax.lax.scan(warm_up, first, jnp.arange(steps // 2))
        state, (trace, acceptance) = jax.lax.scan(advance, state, jnp.arange(steps // 2, steps))
        return Draws(state.position.reshape(start.shape), trace.reshape(-1, *start.shape), acceptance.mean())

    return jax.vmap(chain)(core.fold_in(keys, 2), start, data)


def split_r_hat(trace: jax.Array) -> jax.Array:
    """The rank-normalised split R-hat of every dimension (Vehtari et al. 2021); above 1.01, chains do not agree.

    `trace` holds 1 or more chains of the same posterior, of 4 or more states each.
    """  # [chains, T, ...] -> f32[...]
    from blackjax.diagnostics import rhat

    chains, length, *shape = trace.shape
    return jax.vmap(rhat, in_axes=-1)(trace.reshape(chains, length, -1)).reshape(shape)


def _squared_norm(x: jax.Array) -> jax.Array:  # [B, ...] -> f32[B]
    return jnp.square(x).sum(_axes(x))


def _axes(x: jax.Array) -> tuple[int, ...]:
    return tuple(range(1, x.ndim))


def _like(values: jax.Array, x: jax.Array) -> jax.Array:  # [B], [B, ...] -> [B, 1, ...]
    return values.reshape(-1, *(1,) * (x.ndim - 1))


def _where(condition: jax.Array, one: jax.Array, two: jax.Array) -> jax.Array:  # bool[B], [B, ...], [B, ...]
    return jnp.where(_like(condition, one), one, two)


# In many dimensions an acceptance of 0.57 is optimal for Langevin (Roberts and Rosenthal 1998) and 0.65 for Hamiltonian
# (Beskos et al. 2013); more is the safer side. Unit masses suit the prior, whose variances are 1.
SOLVERS = {
    "optimise": Solver(best_of_prior, optimise, "the most probable code near the best of some samples; no uncertainty"),
    "langevin": Solver(
        resample_prior,
        functools.partial(_chains, _langevin, 0.6),
        "Metropolis-adjusted Langevin chains, exact as they grow long; slower than Hamiltonian ones",
    ),
    "hamiltonian": Solver(
        resample_prior,
        functools.partial(_chains, _hamiltonian, 0.8),
        "Hamiltonian Monte Carlo chains, exact as they grow long",
    ),
}
