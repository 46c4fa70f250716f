"""StyleGAN2 in PyTorch, its modules named as in this project, and the training step that is measured.

Left out, in PyTorch's favour: the running means of w and of the minibatch standard deviation, which only evaluation
reads.
"""

import itertools
import math
from collections.abc import Callable

import torch
from problems import Problem
from torch import nn
from torch.nn import functional
from torch_training import adam, input_gradient, logits_and_r1, update

EPSILON = 1e-8
LENGTH_DECAY = 0.99
TAPS = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
KERNEL = torch.outer(TAPS, TAPS)[None, None]
FILTERS = {  # name: (convolution, stride, padding, factor), and the adjoint's name
    "upsample": ((functional.conv_transpose2d, 2, 1, 4.0), "sum_up"),
    "sum_up": ((functional.conv2d, 2, 1, 4.0), "upsample"),
    "downsample": ((functional.conv2d, 2, 1, 1.0), "spread"),
    "spread": ((functional.conv_transpose2d, 2, 1, 1.0), "downsample"),
    "blur": ((functional.conv2d, 1, 2, 1.0), "narrow"),
    "narrow": ((functional.conv2d, 1, 1, 1.0), "blur"),
}


def filtered(x: torch.Tensor, name: str) -> torch.Tensor:
    """A filter of `networks.resampling` as a depthwise convolution."""
    convolution, stride, padding, factor = FILTERS[name][0]
    kernel = (factor * KERNEL).expand(x.shape[1], 1, 4, 4)
    return convolution(x, kernel, stride=stride, padding=padding, groups=x.shape[1])


class Filter(torch.autograd.Function):
    """`filtered`, whose gradient is the adjoint filter.

    Stating that makes second derivatives 2 to 4 times faster than PyTorch's own of a depthwise convolution.
    """

    @staticmethod
    def forward(ctx, x: torch.Tensor, name: str) -> torch.Tensor:
        ctx.adjoint = FILTERS[name][1]
        return filtered(x, name)

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return Filter.apply(gradient, ctx.adjoint), None


def resample(x: torch.Tensor, name: str) -> torch.Tensor:
    return filtered(x, name) if torch.compiler.is_compiling() else Filter.apply(x, name)


def leaky_relu(x: torch.Tensor) -> torch.Tensor:
    return functional.leaky_relu(x, 0.2) * math.sqrt(2)


class Dense(nn.Module):
    """`networks.stylegan2.dense`."""

    def __init__(self, inputs: int, features: int, rate: float = 1.0, bias: float = 0.0):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, inputs) / rate)
        self.bias = nn.Parameter(torch.full((features,), bias / rate))
        self.rate, self.gain = rate, rate / math.sqrt(inputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.linear(x, self.weight * self.gain, self.bias * self.rate)


class Conv(nn.Module):
    """`networks.stylegan2.conv`."""

    def __init__(self, inputs: int, features: int, size: int = 3, bias: bool = True, stride: int = 1):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(features, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(features)) if bias else None
        self.gain, self.stride, self.padding = 1 / math.sqrt(inputs * size**2), stride, size // 2 if stride == 1 else 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return functional.conv2d(x, self.weight * self.gain, self.bias, self.stride, self.padding)


class ModulatedConv(nn.Module):
    """`networks.stylegan2.ModulatedConv`.

    `grouped`: one convolution of a group for each image, with kernels of its own, instead of scaled inputs and outputs.
    """

    def __init__(self, inputs: int, features: int, latent: int, size: int, demodulate: bool, grouped: bool):
        super().__init__()
        self.style = Dense(latent, inputs, bias=1.0)
        self.weight = nn.Parameter(torch.randn(features, inputs, size, size))
        self.bias = nn.Parameter(torch.zeros(features))
        self.gain, self.padding = 1 / math.sqrt(inputs * size**2), size // 2
        self.demodulate, self.grouped = demodulate, grouped

    def forward(self, x: torch.Tensor, w: torch.Tensor) -> torch.Tensor:  # [B, C, H, W], [B, D] -> [B, features, H, W]
        scale, weight = self.style(w), self.weight * self.gain
        if self.grouped:
            kernels = weight[None] * scale[:, None, :, None, None]
            if self.demodulate:
                kernels = kernels * torch.rsqrt(kernels.square().sum((2, 3, 4), keepdim=True) + EPSILON)
            x = x.reshape(1, -1, *x.shape[2:])
            y = functional.conv2d(x, kernels.flatten(0, 1), padding=self.padding, groups=len(w))
            return y.unflatten(1, (len(w), -1))[0] + self.bias[:, None, None]
        y = functional.conv2d(x * scale[:, :, None, None], weight, padding=self.padding)
        if self.demodulate:
            y = y * torch.rsqrt(scale.square() @ weight.square().sum((2, 3)).T + EPSILON)[:, :, None, None]
        return y + self.bias[:, None, None]


class StyleBlock(nn.Module):
    def __init__(self, inputs: int, features: int, latent: int, grouped: bool):
        super().__init__()
        self.conv = ModulatedConv(inputs, features, latent, 3, True, grouped)
        self.noise_strength = nn.Parameter(torch.zeros(()))

    def forward(self, x: torch.Tensor, w: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        return leaky_relu(torch.addcmul(self.conv(x, w), self.noise_strength, noise))


def channels(problem: Problem) -> list[int]:
    """The channels of each level, from the image's size to the smallest."""
    (height, width, _), model = problem.image_shape, problem.model
    count = 1
    while height % 2 == width % 2 == 0 and min(height, width) > 4:
        height, width, count = height // 2, width // 2, count + 1
    return [min(model["width"] << level, model["max_width"]) for level in range(count)]


class Generator(nn.Module):
    """`networks.stylegan2.MappingNetwork` and `SynthesisNetwork`, without conditions."""

    def __init__(self, problem: Problem, grouped: bool = False):
        super().__init__()
        (height, width, out), latent = problem.image_shape, problem.model["latent"]
        self.latent, self.features = latent, channels(problem)[::-1]
        count = len(self.features)
        self.shapes = [(height >> count - 1 - i // 2, width >> count - 1 - i // 2) for i in range(1, 2 * count)]
        rate, depth = problem.model["mapping_rate"], problem.model["mapping_depth"]
        self.mapping = nn.ModuleDict({f"Dense_{i}": Dense(latent, latent, rate) for i in range(depth)})
        layers, before = {}, self.features[0]
        for level, size in enumerate(self.features):
            if level:
                layers[f"up_{level}"] = StyleBlock(before, size, latent, grouped)
            layers[f"block_{level}"] = StyleBlock(size, size, latent, grouped)
            layers[f"to_image_{level}"] = ModulatedConv(size, out, latent, 1, False, grouped)
            before = size
        self.synthesis = nn.ModuleDict(layers)
        self.constant = nn.Parameter(torch.randn(self.features[0], *self.shapes[0]))

    def map(self, z: torch.Tensor) -> torch.Tensor:  # [B, D] -> [B, D]
        x = z * torch.rsqrt(z.square().mean(1, keepdim=True) + EPSILON)
        for layer in self.mapping.values():
            x = leaky_relu(layer(x))
        return x

    def synthesize(self, w: torch.Tensor, noise: list[torch.Tensor]) -> torch.Tensor:  # [B, L, D] -> [B, C, H, W]
        layers, x, image = self.synthesis, self.constant.expand(len(w), -1, -1, -1), 0.0
        for level in range(len(self.features)):
            if level:
                x, image = resample(x, "upsample"), resample(image, "upsample")
                x = layers[f"up_{level}"](x, w[:, 2 * level - 1], noise[2 * level - 1])
            x = layers[f"block_{level}"](x, w[:, 2 * level], noise[2 * level])
            image = image + layers[f"to_image_{level}"](x, w[:, 2 * level + 1])
        return image

    def every_layer(self, w: torch.Tensor) -> torch.Tensor:  # [B, D] -> [B, L, D]
        return w[:, None].expand(-1, len(self.shapes) + 1, -1)

    def draw(self, count: int, mixing: float) -> tuple[torch.Tensor, torch.Tensor, list[torch.Tensor]]:
        """w [B, D] and, after style mixing, [B, L, D]; the noise."""
        first, second = self.map(torch.randn(2 * count, self.latent)).chunk(2)
        layers = len(self.shapes) + 1
        is_second = torch.arange(layers) >= torch.randint(1, layers, (count, 1))
        is_second &= torch.rand(count, 1) < mixing
        styles = torch.where(is_second[..., None], self.every_layer(second), self.every_layer(first))
        return first, styles, [torch.randn(count, 1, *shape) for shape in self.shapes]


class ResidualDiscriminator(nn.Module):
    """`networks.stylegan2.ResidualDiscriminator`, in training."""

    def __init__(self, problem: Problem):
        super().__init__()
        (height, width, out), features = problem.image_shape, channels(problem)
        self.group, self.count = problem.model["minibatch_group"], len(features) - 1
        self.from_image = Conv(out, features[0], 1)
        for level, (before, size) in enumerate(itertools.pairwise(features)):
            self.add_module(f"block_{level}", Conv(before, before))
            self.add_module(f"down_{level}", Conv(before, size, stride=2))
            self.add_module(f"skip_{level}", Conv(before, size, 1, bias=False))
        self.last = Conv(features[-1] + 1, features[-1])
        self.hidden = Dense(features[-1] * (height >> self.count) * (width >> self.count), features[-1])
        self.out = Dense(features[-1], 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:  # [B, C, H, W] -> [B, 1]
        x = leaky_relu(self.from_image(image))
        for level in range(self.count):
            block, down, skip = (self.get_submodule(f"{name}_{level}") for name in ("block", "down", "skip"))
            y = leaky_relu(down(resample(leaky_relu(block(x)), "blur")))
            x = (skip(resample(x, "downsample")) + y) * math.sqrt(0.5)
        values = x.unflatten(0, (self.group, -1))
        variance = (values - values.mean(0, keepdim=True)).square().mean(0)
        deviation = (torch.sqrt(variance + EPSILON) - math.sqrt(EPSILON)).mean((1, 2, 3)).repeat(self.group)
        x = torch.cat([x, deviation[:, None, None, None].expand(-1, 1, *x.shape[2:])], dim=1)
        x = leaky_relu(self.last(x))
        x = x.permute(0, 2, 3, 1).flatten(1)  # the order of this project
        return self.out(leaky_relu(self.hidden(x)))


def path_length_weight(problem: Problem) -> float:
    pixels = problem.image_shape[0] * problem.image_shape[1]
    scale = math.log(2) / (pixels * (math.log(pixels) / 2 - math.log(2)))
    return problem.model["path_length_weight"] * problem.model["path_length_every"] * scale


def stylegan2(problem: Problem, compiler: Callable, penalty_compiler: Callable, grouped: bool):
    model, mean_length = problem.model, torch.zeros(())
    generator, discriminator = Generator(problem, grouped), ResidualDiscriminator(problem)
    optimizers = adam(generator, problem), adam(discriminator, problem)
    r1_weight = model["penalty_every"] * model["penalty_weight"] if model["penalty"] == "r1" else 0.0
    length_weight, steps = path_length_weight(problem), 0

    @compiler
    def generate(count):
        _, styles, noise = generator.draw(count, model["style_mixing"])
        return generator.synthesize(styles, noise)

    @compiler
    def discriminator_loss(image, fake):
        return functional.softplus(-discriminator(image)).mean() + functional.softplus(discriminator(fake)).mean()

    @penalty_compiler
    def discriminator_loss_r1(image, fake):
        logits, penalty = logits_and_r1(discriminator, image)
        loss = functional.softplus(-logits).mean() + functional.softplus(discriminator(fake)).mean()
        return loss + r1_weight * penalty

    @compiler
    def generator_loss(count):
        _, styles, noise = generator.draw(count, model["style_mixing"])
        return functional.softplus(-discriminator(generator.synthesize(styles, noise))).mean()

    @penalty_compiler
    def generator_loss_lengths(count, old):
        w, styles, noise = generator.draw(count, model["style_mixing"])
        loss = functional.softplus(-discriminator(generator.synthesize(styles, noise))).mean()
        direction = torch.randn(count, *problem.image_shape).permute(0, 3, 1, 2)
        gradient, _ = input_gradient(lambda w: generator.synthesize(generator.every_layer(w), noise) * direction, w)
        lengths = gradient.square().sum(1).clamp_min(1e-24).sqrt()
        mean = lengths.detach().mean()
        target = torch.where(old > 0, old, lengths.detach())
        mean = torch.where(old > 0, old.lerp(mean, 1 - LENGTH_DECAY), mean)
        return loss + length_weight * (lengths - target).square().mean(), mean

    def step(image):
        nonlocal steps, mean_length
        with torch.no_grad():
            fake = generate(len(image))
        discriminator.requires_grad_(True)
        penalized = r1_weight and steps % model["penalty_every"] == 0
        loss = (discriminator_loss_r1 if penalized else discriminator_loss)(image, fake)
        update(optimizers[1], loss)
        discriminator.requires_grad_(False)
        if length_weight and steps % model["path_length_every"] == 0:
            measured, mean_length = generator_loss_lengths(len(image), mean_length)
        else:
            measured = generator_loss(len(image))
        update(optimizers[0], measured)
        steps += 1
        return loss

    return (generator, discriminator), step
