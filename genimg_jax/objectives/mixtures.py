"""Mixtures of discretised logistics, whose channels depend on one another: PixelCNN++ (Salimans et al. 2017)."""

import jax
import jax.numpy as jnp

from genimg_jax.core import Spec, fold_in
from genimg_jax.objectives.likelihoods import Likelihood, discretized_logistic


def discretized_logistic_mixture(spec: Spec, components: int) -> Likelihood:
    """Every pixel takes one of K `components` for all its C channels (Salimans et al. 2017, equations 2 and 3).

    Within a component each channel is a logistic rounded to the levels, whose location is linear in the channels
    before it: location_c + sum_{j < c} tanh(coefficient_cj) x_j, with x in image units. The outputs of a pixel are,
    one component after another, its logit, C locations, C log scales and C (C - 1) / 2 coefficients, in
    the order (1, 0), (2, 0), (2, 1), ... `mean` is exact for one channel. For more, each channel is conditioned on the
    means of those before it, which is exact except near the end levels, where the mean is not linear in the location.
    """
    height, width, channels = spec.image_shape
    parts = (1, channels, channels, channels * (channels - 1) // 2)
    pixel = discretized_logistic(spec._replace(image_shape=(1, 1, channels)))
    channel_pixel = discretized_logistic(spec._replace(image_shape=(1, 1, 1)))
    channel_image = discretized_logistic(spec._replace(image_shape=(height, width, 1)))

    def split(outputs: jax.Array) -> list[jax.Array]:
        # [B, H, W, K sum(parts)] -> f32[B, H, W, K, n] for each n in parts
        outputs = outputs.astype(jnp.float32).reshape(*outputs.shape[:3], components, sum(parts))
        return jnp.split(outputs, [1, 1 + channels, 1 + 2 * channels], axis=-1)

    def shifted(location: jax.Array, coefficients: jax.Array, before: list[jax.Array]) -> jax.Array:
        """The location of the channel that follows `before`."""  # [..., C], [..., n], list of [...] -> [...]
        c = len(before)
        first = c * (c - 1) // 2
        return location[..., c] + sum(jnp.tanh(coefficients[..., first + j]) * x for j, x in enumerate(before))

    def log_prob(outputs: jax.Array, image: jax.Array) -> jax.Array:  # [B, H, W, channels], [B, H, W, C] -> f32[B]
        logit, location, log_scale, coefficients = split(outputs)
        image = jnp.broadcast_to(image.astype(jnp.float32)[..., None, :], location.shape)
        before = [image[..., c] for c in range(channels)]
        locations = jnp.stack([shifted(location, coefficients, before[:c]) for c in range(channels)], axis=-1)
        parameters = jnp.concatenate([locations, log_scale], axis=-1)
        # Each component of each pixel is an image of one pixel; the likelihood multiplies its channels' masses.
        component = pixel.log_prob(
            parameters.reshape(-1, 1, 1, 2 * channels), image.reshape(-1, 1, 1, channels)
        ).reshape(logit.shape[:-1])
        weight = jax.nn.log_softmax(logit[..., 0], axis=-1)
        return jax.nn.logsumexp(weight + component, axis=-1).sum(axis=(1, 2))

    def mean(outputs: jax.Array) -> jax.Array:  # [B, H, W, channels] -> f32[B, H, W, C]
        logit, location, log_scale, coefficients = split(outputs)
        means = []
        for c in range(channels):
            parameters = jnp.stack([shifted(location, coefficients, means), log_scale[..., c]], axis=-1)
            means.append(channel_pixel.mean(parameters.reshape(-1, 1, 1, 2)).reshape(parameters.shape[:-1]))
        return (jax.nn.softmax(logit, axis=-2) * jnp.stack(means, axis=-1)).sum(axis=-2)

    def sample(outputs: jax.Array, keys: jax.Array) -> jax.Array:  # [B, H, W, channels], key[B] -> f32[B, H, W, C]
        logit, *rest = split(outputs)
        chosen = jax.vmap(jax.random.categorical)(fold_in(keys, channels), logit[..., 0])[..., None, None]
        location, log_scale, coefficients = (jnp.take_along_axis(x, chosen, axis=-2)[..., 0, :] for x in rest)
        values = []
        for c in range(channels):
            parameters = jnp.stack([shifted(location, coefficients, values), log_scale[..., c]], axis=-1)
            values.append(channel_image.sample(parameters, fold_in(keys, c))[..., 0])
        return jnp.stack(values, axis=-1)

    return Likelihood(components * sum(parts), log_prob, mean, sample)
