"""CycleGAN in PyTorch, its modules named as in this project, and the training step that is measured."""

import functools
import itertools
from collections.abc import Callable

import torch
from problems import Problem
from torch import nn
from torch.nn import functional
from torch_training import adam, update

OTHER = {"image": "source", "source": "image"}
ReflectConv = functools.partial(nn.Conv2d, padding_mode="reflect")


def instance_norm(x: torch.Tensor) -> torch.Tensor:
    """By the faster of PyTorch's two ways."""  # [B, C, H, W] -> the same
    if x.is_contiguous():
        return functional.group_norm(x, x.shape[1], eps=1e-5)
    return functional.instance_norm(x, eps=1e-5)


class ResNetGenerator(nn.Module):
    """`networks.translation.ResNetGenerator` and the tanh after it."""

    def __init__(self, problem: Problem, inputs: int, out: int):
        super().__init__()
        width, levels, blocks = (problem.model[name] for name in ("width", "num_downsamples", "blocks"))
        features = [width << level for level in range(levels + 1)]
        self.first = ReflectConv(inputs, width, 7, padding=3, bias=False)
        self.down = nn.ModuleList(
            nn.Conv2d(before, after, 4, 2, 1, bias=False) for before, after in itertools.pairwise(features)
        )
        self.blocks = nn.ModuleList(
            nn.ModuleList(ReflectConv(features[-1], features[-1], 3, padding=1, bias=False) for _ in range(2))
            for _ in range(blocks)
        )
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(before, after, 4, 2, 1, bias=False)
            for before, after in itertools.pairwise(features[::-1])
        )
        self.last = ReflectConv(width, out, 7, padding=3)

    def forward(self, image: torch.Tensor) -> torch.Tensor:  # [B, C, H, W] -> [B, out, H, W]
        x = functional.relu(instance_norm(self.first(image)))
        for layer in self.down:
            x = functional.relu(instance_norm(layer(x)))
        for first, second in self.blocks:
            x = x + instance_norm(second(functional.relu(instance_norm(first(x)))))
        for layer in self.up:
            x = functional.relu(instance_norm(layer(x)))
        return torch.tanh(self.last(x))


class SpectralConv(nn.Conv2d):
    """A convolution with `networks.layers.SpectralScale`, whose vector moves in training only."""

    def __init__(self, *arguments):
        super().__init__(*arguments)
        self.register_buffer("vector", functional.normalize(torch.randn(self.out_channels), dim=0))

    def forward(self, x: torch.Tensor, moves: bool) -> torch.Tensor:
        matrix = self.weight.flatten(1)
        if moves:
            with torch.no_grad():
                self.vector.copy_(functional.normalize(matrix @ (self.vector @ matrix), dim=0))
        length = torch.linalg.vector_norm(self.vector @ matrix)
        return functional.conv2d(x, self.weight / length, self.bias, self.stride, self.padding)


class PatchDiscriminator(nn.Module):
    """`networks.grid.PatchDiscriminator`."""

    def __init__(self, problem: Problem, inputs: int):
        super().__init__()
        self.down = nn.ModuleList()
        for level in range(problem.model["discriminator_depth"]):
            features = problem.model["discriminator_width"] * min(2**level, 4)
            self.down.append(SpectralConv(inputs, features, 4, 2, 1))
            inputs = features
        self.last = SpectralConv(inputs, 1, 3, 1, 1)

    def forward(self, image: torch.Tensor, moves: bool) -> torch.Tensor:  # [B, C, H, W] -> [B, 1, h, w]
        for layer in self.down:
            image = functional.leaky_relu(layer(image, moves), 0.2)
        return self.last(image, moves)


class Pool:
    """`objectives.replay`."""

    def __init__(self, size: int):
        self.size, self.images = size, []

    def visit(self, new: torch.Tensor) -> torch.Tensor:  # [B, C, H, W] -> the same
        if len(self.images) < self.size:
            self.images.extend(new[: self.size - len(self.images)].unbind())
            return new
        shown = list(new.unbind())
        for index, place in enumerate(torch.randperm(self.size)[: len(new)].tolist()):
            if torch.rand(()) < 0.5:
                shown[index], self.images[place] = self.images[place], new[index]
        return torch.stack(shown)


def cyclegan(problem: Problem, compiler: Callable):
    channels = problem.image_shape[2]
    generators = nn.ModuleDict({name: ResNetGenerator(problem, channels, channels) for name in OTHER})
    discriminators = nn.ModuleDict({name: PatchDiscriminator(problem, channels) for name in OTHER})
    optimizers = adam(generators, problem), adam(discriminators, problem)
    pools = {name: Pool(problem.model["pool"]) for name in OTHER}

    @compiler
    def translate(real):
        fake = {name: generators[name](real[other]) for name, other in OTHER.items()}
        cycle = sum((generators[name](fake[other]) - real[name]).abs().mean() for name, other in OTHER.items())
        return fake, cycle

    @compiler
    def discriminator_loss(real, shown):
        loss = 0.0
        for name in OTHER:
            logits = discriminators[name](torch.cat([real[name], shown[name]]), True)
            is_real, is_fake = logits.chunk(2)
            loss = loss + 0.5 * ((is_real - 1).square().mean() + is_fake.square().mean())
        return loss

    @compiler
    def generator_loss(fake, cycle):
        adversarial = sum(0.5 * (discriminators[name](fake[name], False) - 1).square().mean() for name in OTHER)
        return adversarial + problem.model["cycle_weight"] * cycle

    def step(image, source):
        """The translations serve both players: the generators do not change in between."""
        real = {"image": image, "source": source}
        fake, cycle = translate(real)
        discriminators.requires_grad_(True)
        loss = discriminator_loss(real, {name: pools[name].visit(x.detach()) for name, x in fake.items()})
        update(optimizers[1], loss)
        discriminators.requires_grad_(False)
        update(optimizers[0], generator_loss(fake, cycle))
        return loss

    return (generators, discriminators), step
