"""Standardises vectors such as a tokenizer's codes, for families that are made for the scale of pixels.

The mean of each channel and one standard deviation for all channels are those of the first training batch (Rombach et
al. 2022, appendix G, but they keep the means). They are in `TrainState.model_state`, so every checkpoint has them and
the tokenizer does not change. One deviation for all channels keeps the proportions of distances: isotropic noise stays
isotropic for the decoder, and a channel of small variance stays small.
"""

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp

from genimg_jax import core

DEVIATION = 0.5  # of the family's inputs: about that of pixels in [-1, 1], and the default `sigma_data`


def standardized(
    family: core.Family,
    average: Callable[[core.Tree], core.Tree] = lambda tree: tree,
    sources: Collection[str] = (),
) -> core.Family:
    """The family trained on standardised images; its samples and denoised images have the original scale.

    `average` is that of `core.Optimizer`. `sources` are conditions with the same scale as the images. `log_prob` is
    `None`: a density would need the Jacobian of the scale, and nothing uses one.
    """

    def standardize_batch(scale, batch):
        return {**batch, **{name: standardize(scale, batch[name]) for name in ("image", *sources) if name in batch}}

    def family_weights(weights):
        return weights._replace(model_state=weights.model_state["family"])

    def init(key, batch):
        state = family.init(key, batch)
        scale = {"mean": jnp.zeros(batch["image"].shape[-1]), "deviation": jnp.float32(DEVIATION)}  # the identity
        return state.replace(model_state={"family": state.model_state, "scale": scale})

    def train_step(state, batch, key):
        current, stored = measure(batch["image"], average), state.model_state["scale"]
        scale = jax.tree.map(lambda new, old: jnp.where(state.step == 0, new, old), current, stored)
        after, metrics = family.train_step(
            state.replace(model_state=state.model_state["family"]), standardize_batch(scale, batch), key
        )
        return after.replace(model_state={"family": after.model_state, "scale": scale}), metrics

    def evaluate(weights, batch, key):
        return family.evaluate(family_weights(weights), standardize_batch(weights.model_state["scale"], batch), key)

    def sample(weights, keys, batch):  # -> [B, H, W, C]
        scale = weights.model_state["scale"]
        return unstandardize(scale, family.sample(family_weights(weights), keys, standardize_batch(scale, batch)))

    def denoise(weights, noisy, level, batch):  # [B, H, W, C], [B] -> [B, H, W, C]
        scale = weights.model_state["scale"]
        level = level * (DEVIATION / scale["deviation"])
        return unstandardize(
            scale,
            family.denoise(family_weights(weights), standardize(scale, noisy), level, standardize_batch(scale, batch)),
        )

    def sigmas(weights, steps):
        return family.sigmas(family_weights(weights), steps) * weights.model_state["scale"]["deviation"] / DEVIATION

    return core.Family(
        init,
        train_step,
        evaluate,
        objective=family.objective,
        sample=sample,
        conditions=family.conditions,
        denoise=family.denoise and denoise,
        sigmas=family.sigmas and sigmas,
    )


def standardize(scale: core.Tree, image: jax.Array) -> jax.Array:
    return (image - per_channel(scale["mean"])) * (DEVIATION / scale["deviation"])


def unstandardize(scale: core.Tree, image: jax.Array) -> jax.Array:
    return image * (scale["deviation"] / DEVIATION) + per_channel(scale["mean"])


def measure(image: jax.Array, average: Callable[[core.Tree], core.Tree]) -> core.Tree:
    """The scale of a batch."""  # [B, H, W, C] -> {"mean": f32[C], "deviation": f32[]}
    mean = average(image.mean(axis=(0, 1, 2)))
    variance = average(jnp.square(image - per_channel(mean)).mean())
    return {"mean": mean, "deviation": jnp.maximum(jnp.sqrt(variance), 1e-6)}  # codes may all be the same


def per_channel(values: jax.Array) -> jax.Array:  # [C] -> [1, 1, 1, C]
    return values.reshape(1, 1, 1, -1)
