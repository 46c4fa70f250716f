"""A family of vectors on any scale, from one that is made for the scale of pixels: what a tokenizer's codes need.

Each channel's mean and one standard deviation for all of them are those of the first training batch (Rombach et al.
2022, appendix G, whose means stay), and are kept in `TrainState.model_state`: every checkpoint has them, and the
tokenizer is left as it is. As the deviation is one, distances keep their proportions: noise that is equal in every
direction stays so for the decoder, and a channel that says little stays small.
"""

from collections.abc import Callable, Collection

import jax
import jax.numpy as jnp

from genimg_jax import core

DEVIATION = 0.5  # of what the family is given: about that of pixels in [-1, 1], and what families default to


def standardized(
    family: core.Family,
    average: Callable[[core.Tree], core.Tree] = lambda tree: tree,
    sources: Collection[str] = (),
) -> core.Family:
    """The family that trains on standardised images and undoes that in what it samples and denoises.

    `average` is that of `core.Optimizer`; `sources` are conditions on the same scale as the images. A density would
    need the scale's Jacobian, and there is no use for one: `log_prob` is `None`.
    """

    def shrunk(scale, image):
        return (image - per_channel(scale["mean"])) * (DEVIATION / scale["deviation"])

    def enlarged(scale, image):
        return image * (scale["deviation"] / DEVIATION) + per_channel(scale["mean"])

    def shrink(scale, batch):
        return {**batch, **{name: shrunk(scale, batch[name]) for name in ("image", *sources) if name in batch}}

    def own(weights):
        return weights._replace(model_state=weights.model_state["family"])

    def init(key, batch):
        state = family.init(key, batch)
        scale = {"mean": jnp.zeros(batch["image"].shape[-1]), "deviation": jnp.float32(DEVIATION)}  # changes nothing
        return state.replace(model_state={"family": state.model_state, "scale": scale})

    def train_step(state, batch, key):
        found = measure(batch["image"], average)
        scale = jax.tree.map(lambda new, old: jnp.where(state.step == 0, new, old), found, state.model_state["scale"])
        after, metrics = family.train_step(
            state.replace(model_state=state.model_state["family"]), shrink(scale, batch), key
        )
        return after.replace(model_state={"family": after.model_state, "scale": scale}), metrics

    def evaluate(weights, batch, key):
        return family.evaluate(own(weights), shrink(weights.model_state["scale"], batch), key)

    def sample(weights, keys, batch):  # -> [B, H, W, C]
        scale = weights.model_state["scale"]
        return enlarged(scale, family.sample(own(weights), keys, shrink(scale, batch)))

    def denoise(weights, noisy, level, batch):  # [B, H, W, C], [B] -> [B, H, W, C]
        scale = weights.model_state["scale"]
        level = level * (DEVIATION / scale["deviation"])
        return enlarged(scale, family.denoise(own(weights), shrunk(scale, noisy), level, shrink(scale, batch)))

    return core.Family(
        init,
        train_step,
        evaluate,
        objective=family.objective,
        sample=sample,
        conditions=family.conditions,
        denoise=family.denoise and denoise,
    )


def measure(image: jax.Array, average: Callable[[core.Tree], core.Tree]) -> core.Tree:
    """The scale of a batch."""  # [B, H, W, C] -> {"mean": f32[C], "deviation": f32[]}
    mean = average(image.mean(axis=(0, 1, 2)))
    variance = average(jnp.square(image - per_channel(mean)).mean())
    return {"mean": mean, "deviation": jnp.maximum(jnp.sqrt(variance), 1e-6)}  # codes may all be the same


def per_channel(values: jax.Array) -> jax.Array:  # [C] -> [1, 1, 1, C]
    return values.reshape(1, 1, 1, -1)
