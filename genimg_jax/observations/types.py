"""The options of an observation."""

from dataclasses import dataclass

from genimg_jax.options import bounded, choice, location, names

STEPS = ("inpaint", "outpaint", "superres", "deblur", "denoise", "colourise", "jpeg")  # the kinds, named by their task


@dataclass(frozen=True)
class Options:
    """What is observed of an image, named by the task of its reconstruction."""

    kind: str = choice("", "", *STEPS, "several")  # "": nothing
    steps: tuple[str, ...] = names()  # several: the kinds in their order, such as ('deblur', 'superres')
    noise: float = bounded(0.0, 0.0, static=True)  # deviation of Gaussian noise, added last, in units of [-1, 1]
    # inpaint: the hidden pixels are a box at a random place, a half, random pixels, a box in the centre, or dark in a
    # file. (outpaint: all outside of a box in the centre.)
    mask: str = choice("box", "box", "half", "random", "centre", "file")
    share: float = bounded(0.25, 0.0, 1.0, static=True)  # box, random, centre, outpaint: hidden pixels over all
    half: str = choice("any", "any", "left", "right", "top", "bottom")  # the hidden one; any: a random one
    mask_file: str = location()  # an image, or bool[H, W] in a file .npy: known where it is bright or True
    factor: int = choice(4, 2, 4)  # superres: height and width over those of the observed image
    resampling: str = choice("mean", "mean", "bicubic")  # superres: means of blocks, or bicubic with antialiasing
    sigma: float = bounded(1.5, 0.1, 32.0, static=True)  # deblur: deviation of the Gaussian kernel, in pixels
    kernel_file: str = location()  # deblur: another kernel f[h, w] of odd sides, in a file .npy; is divided by its sum
    padding: str = choice("reflect", "reflect", "zero")  # deblur: mirrored about the outermost pixels, or grey 0
    quality: int = bounded(10, 1, 100)  # jpeg: that of the Independent JPEG Group
