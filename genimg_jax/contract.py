"""The contract: the records of a generative family, its data and its training state.

A family is a record of pure functions, like an optax optimiser. Nothing here depends on the name of a family, a device
or a collective.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax

from genimg_jax.errors import ConfigError
from genimg_jax.options import nearest

Tree = Any
Batch = dict[str, jax.Array]
Metrics = dict[str, jax.Array]


class Field(NamedTuple):
    """One array that the data has for every image, such as a caption or a segmentation map."""

    shape: tuple[int, ...]  # () class; (T,) tokens; (D,) features; (H, W) map; (H, W, C) image
    size: int = 0  # classes, vocabulary or segments of integers from 0 to size - 1; 0: real numbers
    paired: bool = True  # whether row i belongs to image i; False: another domain, in an order of its own


class Spec(NamedTuple):
    """The properties of the data that a family depends on. Copy it with `_replace`, so that fields are never lost."""

    image_shape: tuple[int, int, int]  # (height, width, channels)
    num_classes: int  # 0: unlabelled
    levels: int  # values a pixel can take: 256, 2 for binarised images; 0: images of codes that are real numbers
    fields: Mapping[str, Field] = {}  # arrays for every image besides its class, by key in a batch

    @property
    def conditions(self) -> dict[str, Field]:
        """Everything that a family can be conditioned on, by its key in a batch."""
        return {**({"label": Field((), self.num_classes)} if self.num_classes else {}), **self.fields}

    def __hash__(self) -> int:  # a mapping has none
        return hash((self.image_shape, self.num_classes, self.levels, *sorted(self.fields.items())))


@flax.struct.dataclass
class TrainState:
    """Everything that training changes, as arrays and nothing else.

    `params`, `opt_state` and `ema_params` are keyed by group, the unit that an optimiser owns. `model_state` is state
    that no gradient reaches: batch statistics, spectral norms, codebook counts. `frozen_params` are used, but neither
    trained nor saved again.
    """

    step: jax.Array  # i32[]: completed training steps
    params: dict[str, Tree]
    opt_state: dict[str, Tree]
    ema_params: dict[str, Tree]  # of groups whose optimiser keeps an average; a second one's key is 'group@1'
    model_state: Tree
    frozen_params: Tree


class Weights(NamedTuple):
    """The part of a `TrainState` that evaluation and sampling use."""

    params: dict[str, Tree]
    model_state: Tree
    frozen_params: Tree


class Optimizer(NamedTuple):
    """The training of one group of parameters.

    `ema_decay` is per step (None: no average is kept). `ema_exponents` replace it by one average with a power-function
    profile for each exponent (`averages`). `average` is the identity under jit, whose global means already cover
    every device; a mapped compilation passes a mean over its devices.
    """

    transform: optax.GradientTransformation
    ema_decay: float | jax.Array | None = None
    microbatches: int = 1
    compute_dtype: Any = jnp.float32
    average: Callable[[Tree], Tree] = lambda tree: tree
    ema_exponents: tuple[float, ...] = ()


class Latents(NamedTuple):
    """One space of codes that images are decoded from. Codes are [B, *spec.image_shape], as if they were images.

    Row i of what a function returns depends on row i of its arguments alone.
    """

    spec: Spec
    """Spec of the codes: tokens i32 from 0 to `levels` - 1, or vectors f32 on any scale, with `levels` 0."""
    decode: Callable[[Weights, jax.Array, Batch], jax.Array]
    """(weights, codes, condition) -> f32[B, H, W, C] in [-1, 1]."""
    encode: Callable[[Weights, Batch, jax.Array], jax.Array] | None = None
    """(weights, batch, key) -> codes. Deterministic, if second stages can be trained on them."""
    prior: Callable[[Weights, jax.Array, Batch], jax.Array] | None = None
    """(weights, keys[B], condition) -> codes. The family's `sample` is `decode` of them."""
    interpolate: str | None = None
    """The path between two codes, 'spherical' or 'linear' (`objectives.interpolation`); None: there is none."""
    layered: bool = False
    """Whether the first axis of the codes is the network's layers, from coarse to fine, each of which may have another
    image's code."""


class Family(NamedTuple):
    """A generative family. A capability that the family lacks is `None`.

    A batch holds `image` f32[B, H, W, C] in [-1, 1], `label` i32[B] if the data has classes, the fields of the data by
    name, and `index` i32[B], the example's position in the global batch (training) or in the dataset (evaluation).
    Noise comes from `per_example_keys(key, batch["index"])`, so that neither batch split nor device count changes it.
    A condition is any batch that holds the keys of `conditions`.
    """

    init: Callable[[jax.Array, Batch], TrainState]
    """(key, batch) -> state. Called under `jax.eval_shape` and jit."""
    train_step: Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]
    """(state, batch, key) -> (state, {name: f32[]}). One step, however many updates it holds."""
    evaluate: Callable[[Weights, Batch, jax.Array], Metrics]
    """(weights, batch, key) -> {name: f32[B]}: values of each example, so that padding can be dropped."""
    objective: tuple[str, ...]
    """What training optimises directly; tables mark it. Names of metrics of `evaluate`, 'log_prob', or the name of a
    feature network whose features the loss compares. () for a game against a discriminator."""
    log_odds: tuple[tuple[str, str], ...] = ()
    """Pairs of training metrics, a discriminator's mean logit of real and of generated inputs, if its loss makes the
    logits log odds. Their difference then measures how well it separates the two."""
    sample: Callable[[Weights, jax.Array, Batch], jax.Array] | None = None
    """(weights, keys[B], condition) -> f32[B, H, W, C] in [-1, 1]; image i depends on its key and condition alone."""
    conditions: tuple[str, ...] = ()
    """The keys that `sample` and the latents need in their batch, such as 'label'."""
    log_prob: Callable[[Weights, Batch, jax.Array], jax.Array] | None = None
    """(weights, batch, key) -> f32[B], the natural logarithm of the probability mass of each image."""
    log_prob_at_half: Callable[[Weights, Batch, jax.Array], jax.Array] | None = None
    """`log_prob` of the same draws with half of its steps or samples: f32[B]. The difference shows the error of an
    estimate, or how loose a bound is at least. None if `log_prob` has no such count, or one for its variance alone."""
    likelihood_kind: str | None = None
    """'exact', 'lower bound' (in expectation) or 'estimate'."""
    likelihood_spec: Spec | None = None
    """Spec of the latent image, if `log_prob` scores latents instead of pixels."""
    protocol: Mapping[str, Any] = {}
    """Settings that readers of `log_prob` must know, such as {"importance samples": 500}."""
    condition_log_prob: Callable[[Weights, Batch, jax.Array], jax.Array] | None = None
    """(weights, batch, key) -> f32[B], the natural logarithm of the probability of each condition, if the family
    models it too. `log_prob` is then conditional, and their sum is the joint log-probability."""
    latents: tuple[Latents, ...] = ()
    """The spaces of codes that images are decoded from. Reconstructions use the first that encodes."""
    denoise: Callable[..., jax.Array] | None = None
    """(weights, noisy f32[B, H, W, C], sigma f32[B], condition) -> f32[B, H, W, C], the expected clean image, where
    noisy = image + sigma * standard normal noise."""
    sigmas: Callable[[Weights, int], jax.Array] | None = None
    """(weights, steps) -> f32[steps + 1]: noise levels to denoise at, from noise alone down to 0."""
    denoise_space: Latents | None = None
    """The space whose codes `denoise` takes and returns, instead of images; tokens as levels in [-1, 1]."""
    inpaint: Callable[..., jax.Array] | None = None
    """(weights, image f32[B, H, W, C], mask bool[B, H, W] of known pixels, keys[B], condition) -> f32[B, H, W, C]."""
    inpaint_method: str = ""
    """The method of `inpaint`, in words."""


def space_with(family: Family, *capabilities: str) -> Latents | None:
    """The first space of the family's latents that has all of them, such as 'encode'."""
    return next((space for space in family.latents if all(getattr(space, name) for name in capabilities)), None)


def fields_of(conditions: tuple[str, ...], spec: Spec) -> tuple[tuple[str, Field], ...]:
    """The fields to condition on. Raises `ConfigError` for a field that the data does not have for every image."""
    for name in conditions:
        if name not in spec.conditions or not spec.conditions[name].paired:
            available = [other for other, field in spec.conditions.items() if field.paired]
            has = f"the data gives {', '.join(available)}" if available else "the data gives only images"
            raise ConfigError(
                f"model.conditions names {name!r}{nearest(name, available)} With each image {has}; "
                "fields such as captions are asked for with data.fields."
            )
    return tuple((name, spec.conditions[name]) for name in conditions)


def condition_of(fields: tuple[tuple[str, Field], ...], batch: Batch) -> Batch:
    """The entries of a batch for these fields."""
    return {name: batch[name] for name, _ in fields}
