"""Adversarial losses and gradient penalties, as independent choices.

A loss is a function of logits. A penalty is a function of the discriminator and its inputs, images or trees of arrays.
Both return a value for each example; the training step averages and weights them.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from genimg_jax.objectives.gradients import of_input_gradient
from genimg_jax.objectives.interpolants import per_example

Inputs = Any  # a tree of arrays [B, ...]: images, or images and codes
Discriminate = Callable[[Inputs], jax.Array]  # -> [B] logits


class AdversarialLoss(NamedTuple):
    """The losses of both players; higher logits mean that an input is more likely real."""

    discriminator: Callable[[jax.Array, jax.Array], jax.Array]
    """(real_logits [B], fake_logits [B]) -> f32[B]"""
    generator: Callable[[jax.Array, jax.Array], jax.Array]
    """(real_logits [B], fake_logits [B]) -> f32[B]"""


def _in_float32(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda *logits: loss(*(x.astype(jnp.float32) for x in logits))


# Goodfellow et al. 2014, section 3: the discriminator's cross-entropy, and -log D instead of log(1 - D).
non_saturating = AdversarialLoss(
    _in_float32(lambda real, fake: jax.nn.softplus(-real) + jax.nn.softplus(fake)),
    _in_float32(lambda real, fake: jax.nn.softplus(-fake)),
)

# Mao et al. 2017, eq. 9: targets 1 for real, 0 for fake, and 1 for the generator.
least_squares = AdversarialLoss(
    _in_float32(lambda real, fake: 0.5 * (jnp.square(real - 1) + jnp.square(fake))),
    _in_float32(lambda real, fake: 0.5 * jnp.square(fake - 1)),
)

# Miyato et al. 2018, eqs. 16 and 17.
hinge = AdversarialLoss(
    _in_float32(lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake)),
    _in_float32(lambda real, fake: -fake),
)

# Arjovsky et al. 2017, eqs. 2 and 3: needs a penalty or a constraint that keeps the critic Lipschitz.
wasserstein = AdversarialLoss(
    _in_float32(lambda real, fake: fake - real),
    _in_float32(lambda real, fake: -fake),
)

# Huang et al. 2024 (R3GAN), eq. 2, after Jolicoeur-Martineau 2018: each real input is paired with a generated one, and
# only the difference of their logits counts. Needs R1 and R2 to converge.
relativistic = AdversarialLoss(
    _in_float32(lambda real, fake: jax.nn.softplus(fake - real)),
    _in_float32(lambda real, fake: jax.nn.softplus(real - fake)),
)

LOSSES = {
    "non_saturating": non_saturating,
    "least_squares": least_squares,
    "hinge": hinge,
    "wasserstein": wasserstein,
    "relativistic": relativistic,
}


def _half_square(gradient: jax.Array) -> jax.Array:  # f32[B, values] -> f32[B]
    return 0.5 * jnp.square(gradient).sum(axis=1)


def r1(discriminate: Discriminate, real: Inputs, fake: Inputs, keys: jax.Array) -> jax.Array:  # -> f32[B]
    """0.5 |gradient|^2 at the real inputs, without the weight gamma (Mescheder et al. 2018, eq. 9)."""
    return of_input_gradient(_half_square, discriminate, real)


def r2(discriminate: Discriminate, real: Inputs, fake: Inputs, keys: jax.Array) -> jax.Array:  # -> f32[B]
    """0.5 |gradient|^2 at the generated inputs, without the weight gamma (Mescheder et al. 2018, eq. 10)."""
    return of_input_gradient(_half_square, discriminate, fake)


def r1_r2(discriminate: Discriminate, real: Inputs, fake: Inputs, keys: jax.Array) -> jax.Array:  # -> f32[B]
    """The sum of both, as R3GAN has it (Huang et al. 2024, section 2)."""
    return r1(discriminate, real, fake, keys) + r2(discriminate, real, fake, keys)


def gradient_penalty(
    discriminate: Discriminate, real: Inputs, fake: Inputs, keys: jax.Array
) -> jax.Array:  # key[B] -> f32[B]
    """(|gradient| - 1)^2 at a random point between each real and fake input (Gulrajani et al. 2017, eq. 3).

    Without the weight lambda. Each example's point comes from its own key. The norm is at least 1e-12, because its
    derivative, which the discriminator's update needs, is not finite at 0.
    """
    uniform = jax.vmap(jax.random.uniform)(keys)

    def between(real: jax.Array, fake: jax.Array) -> jax.Array:
        weight = per_example(uniform, real)
        return weight * real + (1 - weight) * fake

    def measure(gradient: jax.Array) -> jax.Array:
        return jnp.square(optax.safe_norm(gradient, 1e-12, axis=1) - 1)

    return of_input_gradient(measure, discriminate, jax.tree.map(between, real, fake))


def no_penalty(discriminate: Discriminate, real: Inputs, fake: Inputs, keys: jax.Array) -> jax.Array:  # -> f32[B]
    return jnp.zeros(keys.shape[0], jnp.float32)


PENALTIES = {"none": no_penalty, "r1": r1, "r2": r2, "r1_r2": r1_r2, "gradient_penalty": gradient_penalty}


def lazily(every: int, step: jax.Array, penalty: Callable[[], jax.Array]) -> jax.Array:  # -> f32[]
    """`every` times `penalty()` at each step that is a multiple of `every`, and 0 at the others.

    Lazy regularisation (Karras et al. 2020, StyleGAN2, section 3.1): the same on average over steps, and cheaper. The
    penalty is part of the loss of that step; it has no separate update with other decay rates.
    """
    if every == 1:
        return penalty()
    return every * jax.lax.cond(step % every == 0, penalty, lambda: jnp.zeros((), jnp.float32))
