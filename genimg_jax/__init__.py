"""genimg_jax: image generation research in JAX, one contract for every generative family."""

__version__ = "0.1.0"
