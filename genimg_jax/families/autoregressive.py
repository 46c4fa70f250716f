"""What the autoregressive families share: an exact likelihood, and sampling one value after another."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.samplers import ancestral


def autoregressive(
    init: Callable[[jax.Array, core.Batch], core.Tree],
    log_mass: Callable[[core.Tree, core.Batch], jax.Array],
    decode: Callable[..., tuple[jax.Array, jax.Array]],
    spec: core.Spec,
    optimizers: Mapping[str, core.Optimizer],
    conditions: tuple[str, ...],
    order: str,
    candidates: int,
    train_log_mass: Callable[[core.Tree, core.Batch, jax.Array], jax.Array] | None = None,
) -> core.Family:
    """A family with one parameter group, `model`, trained by maximum likelihood.

    `init(key, batch)` returns its parameters. `log_mass(params, batch)` is log p(image), f32[B].
    `decode(params, image [B, H, W, C], mask bool[B, H, W], keys[B], condition)` samples the values outside the mask in
    the model's `order`. It returns the images, and the log-likelihood f32[B] of the values in the mask, each given the
    values before it. Training maximises `train_log_mass(params, batch, step)`, by default `log_mass`. `candidates` is
    the number of inpaintings sampled per image: see `ancestral.resample`.
    """

    def train_step(state, batch, key):
        def loss(params, part, _):
            each = train_log_mass(params, part, state.step) if train_log_mass else log_mass(params, part)
            value = -each.mean()
            return value, {"loss": value}

        state, metrics = core.train_group(optimizers["model"], state, "model", loss, batch, key)
        return state.replace(step=state.step + 1), metrics

    def log_prob(weights, batch, key):
        return log_mass(weights.params["model"], batch)

    def evaluate(weights, batch, key):
        return {"loss": -log_prob(weights, batch, key)}

    def sample(weights, keys, condition):
        blank = jnp.zeros((keys.shape[0], *spec.image_shape))
        return decode(weights.params["model"], blank, jnp.zeros(blank.shape[:3], bool), keys, condition)[0]

    def inpaint(weights, image, mask, keys, condition):
        """Exact if no pixel in the mask follows one outside it in the model's order; else see `ancestral.resample`."""

        def inpaint_once(keys, image, mask, condition):
            return decode(weights.params["model"], image, mask, keys, condition)

        return ancestral.resample(inpaint_once, candidates, keys, image, mask, condition)

    return core.Family(
        lambda key, batch: core.init_state({"model": init(key, batch)}, optimizers),
        train_step,
        evaluate,
        objective=("loss", "log_prob"),
        sample=sample,
        conditions=conditions,
        log_prob=log_prob,
        likelihood_kind="exact",
        inpaint=inpaint,
        inpaint_method=f"ancestral in {order} order; {ancestral.inpainting_protocol(candidates)}",
    )
