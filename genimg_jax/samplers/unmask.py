"""Drawing tokens in any order, several at a time, from a model of each token given those that are known.

Every step predicts all tokens that are unknown, draws them independently of each other and keeps some (MaskGIT, Chang
et al. 2022, section 3.2). Tokens of one step know nothing of each other: samples are exact where each step keeps one,
in an order that does not depend on what was drawn.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

from genimg_jax.core import fold_in

Logits = Callable[[jax.Array, jax.Array], jax.Array]
"""(tokens i32[B, T], known bool[B, T]) -> f32[B, T, V]; unknown tokens are not read."""
Order = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(keys[B], log-probability of each drawn token f32[B, T], share of the steps that remain after this f32[]) ->
f32[B, T]: unknown tokens with the highest values are kept."""


def random_order(keys: jax.Array, log_prob: jax.Array, remaining: jax.Array) -> jax.Array:
    return jax.vmap(lambda key: jax.random.uniform(key, log_prob.shape[1:]))(keys)


def confidence_order(temperature: float | jax.Array) -> Order:
    """The likeliest of the drawn tokens first, with Gumbel noise of a scale that falls from `temperature` to 0."""

    def order(keys: jax.Array, log_prob: jax.Array, remaining: jax.Array) -> jax.Array:
        noise = jax.vmap(lambda key: jax.random.gumbel(key, log_prob.shape[1:]))(keys)
        return log_prob + temperature * remaining * noise

    return order


# The share of all tokens that is known after a share of the steps.
SCHEDULES = {"cosine": lambda done: 1 - np.cos(np.pi / 2 * done), "linear": lambda done: done}


def known_after(schedule: str, steps: int, count: int) -> np.ndarray:
    """How many of `count` tokens are known after each step: at least one more each, and all after the last.

    There are at most `count` steps.
    """  # -> i32[min(steps, count)]
    done = np.arange(1, min(steps, count) + 1)
    shares = SCHEDULES[schedule](done / len(done))
    return np.maximum(done, np.floor(shares * count + 1e-6)).astype(np.int32)  # a product may lie just below a number


def unmask(
    logits: Logits, order: Order, schedule: np.ndarray, tokens: jax.Array, known: jax.Array, keys: jax.Array
) -> jax.Array:
    """The tokens, with those that are not known drawn, by `schedule` from `known_after` for all T.

    Where some are known at first, every step keeps the same share of the others as it would of all, rounded: with T
    steps, one or none.
    """  # i32[B, T], bool[B, T], key[B] -> i32[B, T]
    count, steps = tokens.shape[1], len(schedule)
    first = known.sum(axis=1)

    def step(state, at):
        tokens, known = state
        number, known_of_all = at
        step_keys = fold_in(keys, number)
        log_probs = jax.nn.log_softmax(logits(tokens, known))
        sampled = jax.vmap(jax.random.categorical)(fold_in(step_keys, 0), log_probs)
        chosen = jnp.take_along_axis(log_probs, sampled[..., None], axis=-1)[..., 0]
        score = order(fold_in(step_keys, 1), chosen, 1 - (number + 1) / steps)
        rank = jnp.argsort(jnp.argsort(jnp.where(known, jnp.inf, score), axis=1, descending=True), axis=1)
        total = first + jnp.rint((count - first) * (known_of_all / count)).astype(jnp.int32)
        return (jnp.where(known, tokens, sampled), rank < total[:, None]), None

    return jax.lax.scan(step, (tokens, known), (jnp.arange(steps), jnp.asarray(schedule)))[0][0]
