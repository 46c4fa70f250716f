"""The network of a diffusion or flow model, from the options that these families share."""

import dataclasses

import flax.linen as nn

from genimg_jax.networks.conditioning import Fields
from genimg_jax.networks.dit import DiT
from genimg_jax.networks.unet import UNet
from genimg_jax.options import bounded, choice, several


@dataclasses.dataclass(frozen=True)
class Options:
    network: str = choice("unet", "unet", "dit")
    width: int = bounded(64, 1)  # channels of the U-Net's first level, features of a DiT's token
    multipliers: tuple[int, ...] = several((1, 2, 2), 1)  # U-Net: channels of a level over width; each halves the image
    blocks: int = bounded(2, 1)  # U-Net: residual blocks a level
    attention: tuple[int, ...] = several((), 1, empty=True)  # U-Net: heights with self-attention, besides the lowest
    unet_patch: int = bounded(1, 1)  # U-Net: height and width, in pixels, of what its first level takes as one
    patch: int = bounded(2, 1)  # DiT: height and width of a token, in pixels
    depth: int = bounded(6, 1)  # DiT: blocks
    heads: int = bounded(4, 1)  # DiT: attention heads, which share the width
    registers: int = bounded(0, 0)  # DiT: learned prefix tokens
    label_tokens: int = bounded(0, 0)  # DiT: prefix tokens of the class, besides its modulation of every block
    remat: bool = False  # DiT: recompute blocks for their gradients, to save memory
    scan_layers: bool = False  # DiT: compile one block and loop over it: compiles sooner, may step slower


def build(options: Options, channels: int, fields: Fields, width: int = 0, forward_mode_ad: bool = False) -> nn.Module:
    """A module as `denoising` describes it, conditioned on the fields. A `width` above 0 replaces that of the options.

    `forward_mode_ad`: training takes derivatives in forward mode.
    """
    width = width or options.width
    if options.network == "unet":
        return UNet(
            width,
            options.multipliers,
            options.blocks,
            options.attention,
            channels,
            fields,
            forward_mode_ad,
            options.unet_patch,
        )
    return DiT(
        options.patch,
        width,
        options.depth,
        options.heads,
        channels,
        fields,
        options.registers,
        options.label_tokens,
        options.remat,
        options.scan_layers,
        forward_mode_ad,
    )
