"""The network of a diffusion or flow model, from the options that all of them share."""

from typing import Protocol

import flax.linen as nn

from genimg_jax.networks.dit import DiT
from genimg_jax.networks.unet import UNet

NETWORKS = ("unet", "dit")


class Options(Protocol):
    """What `build` reads of a family's options."""

    network: str  # one of `NETWORKS`
    width: int  # channels of the U-Net's first level, features of a token
    multipliers: tuple[int, ...]  # U-Net: channels of each level over `width`
    blocks: int  # U-Net: residual blocks a level
    attention: tuple[int, ...]  # U-Net: heights of the levels that attend
    patch: int  # DiT: height and width of a token in pixels
    depth: int  # DiT: blocks
    heads: int  # DiT: attention heads
    registers: int  # DiT: learned tokens besides the image's
    label_tokens: int  # DiT: tokens that tell the class
    remat: bool  # DiT: compute blocks again for their gradients
    loop: bool  # DiT: compile one block and loop over it; soon compiled where it is deep, but 1.4 x slower on a CPU


def build(options: Options, channels: int, classes: int, width: int = 0) -> nn.Module:
    """A module as `denoising` describes it; `classes` is 0 where it is told none, `width` replaces the options'."""
    width = width or options.width
    if options.network == "unet":
        return UNet(width, options.multipliers, options.blocks, options.attention, channels, classes)
    return DiT(
        options.patch,
        width,
        options.depth,
        options.heads,
        channels,
        classes,
        options.registers,
        options.label_tokens,
        options.remat,
        options.loop,
    )
