"""Adversarial losses and gradient penalties, as independent choices.

A loss sees logits only; a penalty sees the discriminator as a function of images. Both give a value per example, to
be averaged, and weighted, by whoever trains.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

Discriminate = Callable[[jax.Array], jax.Array]  # [B, ...] -> [B] logits


class AdversarialLoss(NamedTuple):
    """What the two players minimise; logits are high for images held to be real."""

    discriminator: Callable[[jax.Array, jax.Array], jax.Array]
    """(real_logits [B], fake_logits [B]) -> f32[B]"""
    generator: Callable[[jax.Array], jax.Array]
    """(fake_logits [B]) -> f32[B]"""


def _in_float32(loss: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    return lambda *logits: loss(*(x.astype(jnp.float32) for x in logits))


# Goodfellow et al. 2014, section 3: the discriminator's cross-entropy, and -log D instead of log(1 - D).
non_saturating = AdversarialLoss(
    _in_float32(lambda real, fake: jax.nn.softplus(-real) + jax.nn.softplus(fake)),
    _in_float32(lambda fake: jax.nn.softplus(-fake)),
)

# Mao et al. 2017, eq. 9: targets 1 for real, 0 for fake, and 1 for the generator.
least_squares = AdversarialLoss(
    _in_float32(lambda real, fake: 0.5 * (jnp.square(real - 1) + jnp.square(fake))),
    _in_float32(lambda fake: 0.5 * jnp.square(fake - 1)),
)

# Miyato et al. 2018, eqs. 16 and 17.
hinge = AdversarialLoss(
    _in_float32(lambda real, fake: jax.nn.relu(1 - real) + jax.nn.relu(1 + fake)),
    _in_float32(lambda fake: -fake),
)

# Arjovsky et al. 2017, eqs. 2 and 3: means something only if a penalty or a constraint keeps the critic Lipschitz.
wasserstein = AdversarialLoss(
    _in_float32(lambda real, fake: fake - real),
    _in_float32(lambda fake: -fake),
)

LOSSES = {
    "non_saturating": non_saturating,
    "least_squares": least_squares,
    "hinge": hinge,
    "wasserstein": wasserstein,
}


def _image_gradient(discriminate: Discriminate, images: jax.Array) -> jax.Array:  # [B, ...] -> f32[B, features]
    """Each logit's gradient by its own image, from one backward pass through the sum of the logits.

    That is exact only where an example's logit depends on its own image alone. Batch normalisation and minibatch
    statistics in the discriminator couple the examples: row i is then the gradient of all logits by image i.
    """
    gradient = jax.grad(lambda x: discriminate(x).astype(jnp.float32).sum())(images.astype(jnp.float32))
    return gradient.reshape(len(images), -1)


def r1(discriminate: Discriminate, real: jax.Array, fake: jax.Array, keys: jax.Array) -> jax.Array:  # -> f32[B]
    """0.5 |gradient|^2 at the real images, without the weight gamma (Mescheder et al. 2018, eq. 9)."""
    return 0.5 * jnp.square(_image_gradient(discriminate, real)).sum(axis=1)


def gradient_penalty(
    discriminate: Discriminate, real: jax.Array, fake: jax.Array, keys: jax.Array
) -> jax.Array:  # [B, ...], [B, ...], key[B] -> f32[B]
    """(|gradient| - 1)^2 at a random point between each real and fake image (Gulrajani et al. 2017, eq. 3).

    Without the weight lambda. Each example's point comes from its own key. The norm is held above 1e-12, where its
    own derivative, needed for the discriminator's update, would not be finite.
    """
    share = jax.vmap(jax.random.uniform)(keys).reshape(-1, *[1] * (real.ndim - 1))
    gradient = _image_gradient(discriminate, share * real + (1 - share) * fake)
    return jnp.square(optax.safe_norm(gradient, 1e-12, axis=1) - 1)


def no_penalty(discriminate: Discriminate, real: jax.Array, fake: jax.Array, keys: jax.Array) -> jax.Array:  # -> f32[B]
    return jnp.zeros(len(real), jnp.float32)


PENALTIES = {"none": no_penalty, "r1": r1, "gradient_penalty": gradient_penalty}
