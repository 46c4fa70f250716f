"""Differentiable augmentations of what a discriminator sees, real and generated alike.

The generator must not learn to make augmented images. An augmentation leaks if two distributions of images look the
same under it: if its operator on distributions has an eigenvalue of 0. With probability 1 - p an image stays as it is,
else an element of a group is applied at random. Drawn uniformly from the group (a flip with probability p / 2) the
smallest eigenvalue is 1 - p; that of a translation within bounds is lower by 0.22 p. So `ada` keeps p at most `MOST`
(Karras et al. 2020, "Training Generative Adversarial Networks with Limited Data", section 2.2 and appendix C).
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

Augment = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]
"""(key[], image f32[H, W, C] in [-1, 1], p f32[]) -> f32[H, W, C]"""

MOST = 0.8  # probability of each of the adaptive transformations, at most
SHIFT = 1 / 8  # largest translation, as a share of the image
CUT = 1 / 2  # side of the square that is cut out, likewise


def augment(kind: str, keys: jax.Array, images: jax.Array, p: jax.Array) -> jax.Array:
    """Each image by its own key; `p` is read by `ada` only."""  # key[B], f32[B, H, W, C], f32[] -> f32[B, H, W, C]
    return jax.vmap(AUGMENTATIONS[kind], (0, 0, None))(keys, images.astype(jnp.float32), p)


def adapt(p: jax.Array, sign: jax.Array, target: float, images: int, over: int) -> jax.Array:
    """The next p, which grows while the mean sign of the logits of real images (r_t) is above its target: the
    discriminator then overfits. It can go from 0 to 1 within `over` images (Karras et al. 2020, section 3.1)."""
    # f32[], f32[] -> f32[]
    return jnp.clip(p + jnp.sign(sign - target) * images / over, 0.0, MOST)


# ----------------------------------------------------------------------- DiffAugment (Zhao et al. 2020, section 3.1)


def diffaugment(key: jax.Array, image: jax.Array, p: jax.Array) -> jax.Array:
    """Colour, translation and cutout, of every image."""
    keys = jax.random.split(key, 5)
    brightness, saturation, contrast = (jax.random.uniform(k) for k in keys[:3])
    image = image + brightness - 0.5
    grey = image.mean(axis=-1, keepdims=True)
    image = grey + 2 * saturation * (image - grey)
    mean = image.mean()
    image = mean + (contrast + 0.5) * (image - mean)
    height, width, _ = image.shape
    image = _moved(image, _offset(keys[3], height, width), "constant")
    cut = int(CUT * height), int(CUT * width)
    top, left = (
        jax.random.randint(k, (), 0, n + 1) for k, n in zip(jax.random.split(keys[4]), (height, width), strict=True)
    )
    inside = [
        jnp.abs(jnp.arange(n) - at + 0.5) < c / 2 for n, at, c in zip((height, width), (top, left), cut, strict=True)
    ]
    return jnp.where((inside[0][:, None] & inside[1][None])[..., None], 0.0, image)


# --------------------------------------------------------- adaptive augmentation (Karras et al. 2020, appendix B)


def ada(key: jax.Array, image: jax.Array, p: jax.Array) -> jax.Array:
    """Moves of whole pixels, then any affine map, then colours: each transformation with probability p."""
    keys = jax.random.split(key, 3)
    image = blit(keys[0], image, p)
    return recolour(keys[2], geometric(keys[1], image, p), p)


def blit(key: jax.Array, image: jax.Array, p: jax.Array) -> jax.Array:
    """A flip, a rotation by a multiple of 90 degrees (of square images), a translation: no pixel is interpolated."""
    keys = jax.random.split(key, 3)
    height, width, _ = image.shape
    image = jnp.where(_chosen(keys[0], p / 2), image[:, ::-1], image)
    if height == width:
        turned = jnp.stack([jnp.rot90(image, k) for k in range(4)])
        image = turned[_maybe(keys[1], p, lambda k: jax.random.randint(k, (), 0, 4), 0)]
    offset = _maybe(keys[2], p, lambda k: _offset(k, height, width), jnp.zeros(2, jnp.int32))
    return _moved(image, offset, "reflect")


def geometric(key: jax.Array, image: jax.Array, p: jax.Array) -> jax.Array:
    """Scaling of both sides, of one against the other, rotation by any angle, and translation, interpolated once."""
    keys = jax.random.split(key, 4)
    size = jnp.array(image.shape[:2], jnp.float32)
    scale = _maybe(keys[0], p, lambda k: jnp.exp2(0.2 * jax.random.normal(k)), 1.0)
    aspect = _maybe(keys[1], p, lambda k: jnp.exp2(0.2 * jax.random.normal(k)), 1.0)
    angle = _maybe(keys[2], p, lambda k: jax.random.uniform(k, (), minval=-jnp.pi, maxval=jnp.pi), 0.0)
    offset = _maybe(keys[3], p, lambda k: SHIFT * size * jax.random.normal(k, (2,)), jnp.zeros(2))
    rotation = jnp.array([[jnp.cos(angle), -jnp.sin(angle)], [jnp.sin(angle), jnp.cos(angle)]])
    inverse = rotation.T / (scale * jnp.array([aspect, 1 / aspect]))[None]
    centre = (size - 1) / 2
    grid = jnp.stack(jnp.meshgrid(*map(jnp.arange, image.shape[:2]), indexing="ij"))
    source = jnp.tensordot(inverse, grid - (centre + offset)[:, None, None], 1) + centre[:, None, None]
    read = jax.vmap(lambda x: jax.scipy.ndimage.map_coordinates(x, source, 1, "mirror"), -1, -1)
    return read(image)


def recolour(key: jax.Array, image: jax.Array, p: jax.Array) -> jax.Array:
    """Brightness, contrast and inversion; of colours, inversion of the luma alone, and their hue and saturation."""
    keys = jax.random.split(key, 5)
    brightness = _maybe(keys[0], p, lambda k: 0.2 * jax.random.normal(k), 0.0)
    contrast = _maybe(keys[1], p, lambda k: jnp.exp2(0.5 * jax.random.normal(k)), 1.0)
    image = contrast * (image + brightness)
    sign = jnp.where(_chosen(keys[2], p / 2), -1.0, 1.0)
    if image.shape[-1] != 3:
        return sign * image
    luma = image.mean(axis=-1, keepdims=True)
    chroma = image - luma
    angle = _maybe(keys[3], p, lambda k: jax.random.uniform(k, (), minval=-jnp.pi, maxval=jnp.pi), 0.0)
    saturation = _maybe(keys[4], p, lambda k: jnp.exp2(jax.random.normal(k)), 1.0)
    # The rotation about the axis of greys, on which the chroma has no part (Rodrigues' formula).
    across = jnp.cross(jnp.full(3, 3**-0.5), chroma)
    return sign * luma + saturation * (jnp.cos(angle) * chroma + jnp.sin(angle) * across)


def _chosen(key: jax.Array, p: jax.Array) -> jax.Array:
    return jax.random.uniform(key) < p


def _maybe(key: jax.Array, p: jax.Array, draw: Callable[[jax.Array], jax.Array], otherwise: jax.Array) -> jax.Array:
    """A value of the distribution with probability p, else that of the identity."""
    which, what = jax.random.split(key)
    return jnp.where(_chosen(which, p), draw(what), otherwise)


def _offset(key: jax.Array, height: int, width: int) -> jax.Array:  # -> i32[2]
    most = jnp.array([max(1, int(SHIFT * n)) for n in (height, width)])
    return jax.random.randint(key, (2,), -most, most + 1)


def _moved(image: jax.Array, offset: jax.Array, mode: str) -> jax.Array:
    """The image moved by whole pixels, with zeros (grey) or its reflection beyond its borders."""
    height, width, channels = image.shape
    border = [max(1, int(SHIFT * n)) for n in (height, width)]
    padded = jnp.pad(image, [(b, b) for b in border] + [(0, 0)], mode)
    start = [b - o for b, o in zip(border, offset, strict=True)]
    return jax.lax.dynamic_slice(padded, (*start, 0), (height, width, channels))


AUGMENTATIONS: dict[str, Augment] = {"diffaugment": diffaugment, "ada": ada}
