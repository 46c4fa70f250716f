"""CycleGAN (Zhu et al. 2017): translation between two domains of images, learned without pairs.

One domain is the `image`, the other the field `source`. Each has a generator, which makes its images from those of the
other domain, and a discriminator of patches. The generators' loss is equation 3, with the identity loss of section 5.2
if that has a weight. The discriminators see a pool of earlier translations (section 4). They are those of `vqgan`, with
spectral normalisation: of `discriminator_depth` 1, 2, 3 or 4, a logit sees a patch of 8, 18, 38 or 78 pixels to a side.

`sample` translates the source. The source is also the latent space: `encode` translates an image there, and `decode`
back, so that a reconstruction is a cycle.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp

from genimg_jax import core
from genimg_jax.errors import ConfigError
from genimg_jax.families import adversarial
from genimg_jax.families.adversarial import Discriminated, Game, Generated
from genimg_jax.networks.grid import PatchDiscriminator, halved
from genimg_jax.networks.translation import ResNetGenerator
from genimg_jax.objectives import replay
from genimg_jax.objectives.adversarial import LOSSES
from genimg_jax.options import bounded, choice, is_enabled

GROUPS = ("generator", "discriminator")
Images = dict[str, jax.Array]  # of each domain, [B, H, W, C]
OTHER = {"image": "source", "source": "image"}  # the domain that each domain's images are made from


@dataclasses.dataclass(frozen=True)
class Options(adversarial.Options):
    width: int = bounded(64, 1)  # channels of the generators at the image's size, doubled at each further level
    num_downsamples: int = bounded(2, 1)  # of height and width, in the generators
    blocks: int = bounded(6, 0)  # residual blocks at the smallest size
    loss: str = choice("least_squares", *LOSSES)
    # The paper's lambda is 10, beside a generator's loss (D - 1)^2; `least_squares` has the half of it, (D - 1)^2 / 2.
    cycle_weight: float = bounded(5.0, 0.0)
    identity_weight: float = bounded(0.0, 0.0, structural=True)  # of images of its own domain, unchanged; 0: no loss
    pool: int = bounded(50, 1)  # earlier translations that the discriminators see
    discriminator_width: int = bounded(64, 1)  # channels at half the image's size; doubled like `width`, up to 4 times
    discriminator_depth: int = bounded(3, 1)  # downsamplings, from the image to patches


def domains(options: Options, spec: core.Spec) -> dict[str, tuple[int, int, int]]:
    """The shapes of both domains' images. Raises `ConfigError` if there is no other domain, or none that fits."""
    field = spec.fields.get("source")
    if field is None:
        raise ConfigError(
            "cyclegan translates between images and the field 'source', which these data lack: set "
            "data.source=domains, data.domains.partner to the other folder of images, and data.fields=('source',)."
        )
    if field.shape[:2] != spec.image_shape[:2] or (
        is_enabled(options.identity_weight) and field.shape != spec.image_shape
    ):
        raise ConfigError(
            f"the images are of shape {spec.image_shape} and the source's of {field.shape}: set data.size to bring "
            "them to one size, and model.identity_weight=0 if one is grey and the other in colour."
        )
    for name in ("num_downsamples", "discriminator_depth"):
        halved(*field.shape[:2], getattr(options, name), f"model.{name}")
    return {"image": spec.image_shape, "source": field.shape}


def make(options: Options, spec: core.Spec, optimizers: Mapping[str, core.Optimizer]) -> core.Family:
    """The family with parameter groups `generator` and `discriminator`, each with a subtree for each domain."""
    shapes, with_identity = domains(options, spec), is_enabled(options.identity_weight)
    sizes = options.width, options.num_downsamples, options.blocks
    generators = {name: ResNetGenerator(*sizes, shape[-1]) for name, shape in shapes.items()}
    discriminator = PatchDiscriminator(options.discriminator_width, options.discriminator_depth)

    def translate(params, name, other):
        """Images of the named domain, from those of the other one."""  # [B, H, W, any] -> f32[B, H, W, C]
        return jnp.tanh(generators[name].apply({"params": params[name]}, other).astype(jnp.float32))

    def generate(params, model_state, batch, key, training):
        real = {name: batch[name] for name in OTHER}
        fake, distances = translations(functools.partial(translate, params), real, with_identity)
        return Generated(real, fake, details=distances)

    def discriminate(params, model_state, inputs, batch, training):  # 2 x [B, H, W, C] -> logits 2 x [B, h, w]
        logits, statistics = [], {}
        for name in OTHER:
            variables = {"params": params[name], "batch_stats": model_state["discriminator"][name]}
            (values, _), changed = discriminator.apply(variables, inputs[name], training, mutable=["batch_stats"])
            logits.append(values.astype(jnp.float32))
            statistics[name] = changed["batch_stats"]
        return Discriminated(tuple(logits), {"discriminator": statistics})

    def init(key, batch):
        keys = iter(jax.random.split(key, 4))
        makers = {name: generators[name].init(next(keys), batch[other])["params"] for name, other in OTHER.items()}
        judges = {name: discriminator.init(next(keys), batch[name], True) for name in OTHER}
        weights, statistics = ({name: judges[name][kind] for name in OTHER} for kind in ("params", "batch_stats"))
        pool = {name: replay.init(options.pool, shapes[name]) for name in OTHER}
        params = {"generator": makers, "discriminator": weights}
        return core.init_state(params, optimizers, {"discriminator": statistics, "pool": pool})

    def evaluate(weights, batch, key):
        generated = generate(weights.params["generator"], weights.model_state, batch, key, False)
        return {**adversarial.evaluate(game, weights, batch, key), **generated.details}

    def decode(weights, codes, condition):
        return translate(weights.params["generator"], "image", codes)

    def encode(weights, batch, key):
        return translate(weights.params["generator"], "source", batch["image"])

    loss, with_cycles = LOSSES[options.loss], functools.partial(generator_loss, options)
    game = Game(optimizers, options, loss, generate, discriminate, with_cycles, finish, fake_training=False)
    game = game._replace(discriminators=tuple(f"/{name}" for name in OTHER))
    return core.Family(
        init,
        functools.partial(train_step, game),
        evaluate,
        objective=("cycle",),
        log_odds=game.log_odds,
        sample=lambda weights, keys, condition: decode(weights, condition["source"], condition),
        conditions=("source",),
        latents=(core.Latents(spec._replace(image_shape=shapes["source"], levels=0), decode, encode),),
    )


def translations(
    translate: Callable[[str, jax.Array], jax.Array], real: Images, with_identity: bool
) -> tuple[Images, core.Metrics]:  # [B, H, W, C] each -> [B, H, W, C] each, {name: f32[B]}
    """Translations into both domains by `translate(name, images)`, and two distances of each example.

    `cycle` is that of an image from its translation there and back (equation 2), `identity` that from what its own
    domain's generator makes of it (section 5.2). Both are mean absolute differences, summed over the domains.
    """

    def distance(images: Images) -> jax.Array:
        return sum(jnp.abs(images[name] - real[name]).mean((1, 2, 3)) for name in OTHER)

    fake = {name: translate(name, real[other]) for name, other in OTHER.items()}
    distances = {"cycle": distance({name: translate(name, fake[other]) for name, other in OTHER.items()})}
    if with_identity:
        distances["identity"] = distance({name: translate(name, real[name]) for name in OTHER})
    return fake, distances


def generator_loss(options: Options, terms: adversarial.Terms) -> tuple[jax.Array, core.Metrics]:
    """Equation 3 and the identity loss."""
    distances = {name: values.mean() for name, values in terms.generated.details.items()}
    weights = {"cycle": options.cycle_weight, "identity": options.identity_weight}
    added = sum(weights[name] * distance for name, distance in distances.items())
    return terms.adversarial + added, {"adversarial": terms.adversarial, **distances}


def train_step(
    game: Game, state: core.TrainState, batch: core.Batch, key: jax.Array
) -> tuple[core.TrainState, core.Metrics]:
    """Updates the discriminators, which see the pool; then the generators, with which it gets the same translations."""
    pool_key, discriminator_key, generator_key = jax.random.split(key, 3)

    def visit(generated: Generated, pools: core.Tree, index: jax.Array) -> tuple[Images, core.Tree]:
        keys = dict(zip(OTHER, jax.random.split(pool_key), strict=True))
        visits = {name: replay.visit(pools[name], keys[name], index, generated.fake[name]) for name in OTHER}
        return tuple({name: visits[name][i] for name in OTHER} for i in range(2))

    def replayed(params, model_state, part, key, training):
        generated = game.generate(params, model_state, part, key, training)
        return generated._replace(fake=visit(generated, model_state["pool"], part["index"])[0])

    def observed(params, model_state, part, key, training):
        generated = game.generate(params, model_state, part, key, training)
        return generated._replace(observed={"pool": visit(generated, model_state["pool"], part["index"])[1]})

    rules = game._replace(generate=replayed)
    state, metrics = adversarial.train_discriminator(rules, state, batch, discriminator_key)
    rules = game._replace(generate=observed)
    state, more = adversarial.train_generator(rules, state, batch, generator_key)
    return state.replace(step=state.step + 1), {**metrics, **more}


def finish(model_state: core.Tree, observed: core.Tree) -> tuple[core.Metrics, core.Tree]:
    pools = model_state["pool"]
    return {}, {"pool": {name: replay.renew(pools[name], observed["pool"][name]) for name in OTHER}}
