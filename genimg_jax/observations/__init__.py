"""What is observed of an image: with holes, smaller, blurred, noisy, without its colours, or compressed.

`observing.build(Options(kind="superres"), image_shape)` gives the functions. Naming the options does not load JAX.
"""

from genimg_jax.observations.types import Options

__all__ = ["Options"]
