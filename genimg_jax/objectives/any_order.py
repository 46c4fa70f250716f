"""The lower bound of an any-order autoregressive model, from one random mask an example.

A network predicts every masked token from those that are known. If a random order decides what is known, one token
after another, the expected log-likelihood is E_m (T / m) sum over the m masked tokens of log p(token | known), with m
uniform from 1 to T and all masks of m tokens equally likely (Uria et al. 2014; Hoogeboom et al. 2022, section 3). By
Jensen's inequality it is at most the logarithm of the mean likelihood over all orders. Masking each token on its own,
with a probability t uniform in [0, 1] and weight 1 / t, has the same expectation, but for the masks of no token (Shi
et al. 2024; Sahoo et al. 2024), and a higher variance.
"""

import jax
import jax.numpy as jnp


def random_mask(uniform: jax.Array, keys: jax.Array, count: int) -> jax.Array:
    """Which of `count` tokens are known: all but m at random, where m = 1 + floor(uniform count)."""
    # f32[B] within (0, 1), key[B] -> bool[B, T]
    masked = jnp.minimum(jnp.floor(uniform * count), count - 1).astype(jnp.int32) + 1  # the product may round up
    rank = jax.vmap(lambda key: jax.random.permutation(key, count))(keys)
    return rank >= masked[:, None]


def bound(logits: jax.Array, tokens: jax.Array, known: jax.Array) -> jax.Array:
    """An unbiased estimate of the lower bound in nats, for a mask of `random_mask` with `uniform` uniform."""
    # f32[B, T, V], i32[B, T], bool[B, T] -> f32[B]
    log_prob = jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[..., None], axis=-1)[..., 0]
    return tokens.shape[1] * jnp.mean(log_prob, axis=1, where=~known)
