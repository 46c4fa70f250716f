"""This project's denoising networks in PyTorch, their modules named as there, and the loss that is measured."""

import math

import torch
from problems import Problem
from torch import nn
from torch.nn import functional


def group_norm(features: int) -> nn.GroupNorm:
    return nn.GroupNorm(features // math.gcd(16, features), features, eps=1e-6)


class Condition(nn.Module):
    """`networks.denoising.Condition` without classes."""

    def __init__(self, features: int):
        super().__init__()
        frequencies = torch.logspace(math.log10(1 / 32), math.log10(2.0), features // 2, dtype=torch.float64)
        self.register_buffer("frequencies", (2 * math.pi * frequencies).float())
        self.noise_in, self.noise_out = nn.Linear(features, features), nn.Linear(features, features)

    def forward(self, c_noise: torch.Tensor) -> torch.Tensor:  # [B] -> [B, features]
        angles = c_noise[:, None] * self.frequencies
        x = functional.silu(self.noise_in(torch.cat([angles.cos(), angles.sin()], dim=1)))
        return functional.silu(self.noise_out(x))


class SelfAttention(nn.Module):
    def __init__(self, features: int, head_size: int):
        super().__init__()
        self.head_size = head_size
        self.heads_in, self.heads_out = nn.Linear(features, 3 * features), nn.Linear(features, features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, S, F] -> [B, S, F]
        query, key, value = self.heads_in(x).unflatten(2, (3, -1, self.head_size)).permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value)
        return self.heads_out(attended.transpose(1, 2).flatten(2))


class ResidualBlock(nn.Module):
    def __init__(self, inputs: int, features: int, condition: int, resize: str = "keep", attention: bool = False):
        super().__init__()
        self.resize = resize
        self.norm_in, self.norm_out = group_norm(inputs), group_norm(features)
        self.conv_in = nn.Conv2d(inputs, features, 3, padding=1)
        self.conv_out = nn.Conv2d(features, features, 3, padding=1)
        self.modulation = nn.Linear(condition, 2 * features)
        self.skip = nn.Conv2d(inputs, features, 1) if inputs != features else None
        self.attention_norm = group_norm(features) if attention else None
        self.attention = SelfAttention(features, math.gcd(64, features)) if attention else None

    def resized(self, x: torch.Tensor) -> torch.Tensor:
        if self.resize == "halve":
            return functional.avg_pool2d(x, 2)
        return functional.interpolate(x, scale_factor=2, mode="nearest") if self.resize == "double" else x

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:  # [B, C, H, W], [B, E]
        y = self.conv_in(self.resized(functional.silu(self.norm_in(x))))
        scale, shift = self.modulation(condition)[:, :, None, None].chunk(2, dim=1)
        y = self.conv_out(functional.silu(torch.addcmul(shift, self.norm_out(y), 1 + scale)))
        x = self.resized(x)
        x = ((x if self.skip is None else self.skip(x)) + y) * math.sqrt(0.5)
        if self.attention is not None:
            y = self.attention(self.attention_norm(x).flatten(2).transpose(1, 2))
            x = (x + y.transpose(1, 2).unflatten(2, x.shape[2:])) * math.sqrt(0.5)
        return x


class UNet(nn.Module):
    """`networks.unet.UNet`."""

    def __init__(self, problem: Problem):
        super().__init__()
        model, (height, _, channels) = problem.model, problem.image_shape
        features = [model["width"] * multiplier for multiplier in model["multipliers"]]
        attends = [height >> level in model["attention"] for level in range(len(features))]
        self.condition = Condition(4 * model["width"])
        self.first = nn.Conv2d(channels, model["width"], 3, padding=1)
        self.steps = []  # (name, whether it takes a skip, whether it leaves one)
        widths, skips = model["width"], [model["width"]]

        def add(name, level, skip=0, leaves=False, **options):
            nonlocal widths
            block = ResidualBlock(widths + skip, features[level], 4 * model["width"], **options)
            self.add_module(name, block)
            self.steps.append((name, skip > 0, leaves))
            widths = features[level]
            if leaves:
                skips.append(widths)

        last = len(features) - 1
        for level in range(len(features)):
            if level:
                add(f"halve_{level}", level, leaves=True, resize="halve")
            for i in range(model["blocks"]):
                add(f"down_{level}_{i}", level, leaves=True, attention=attends[level])
        add("middle_0", last, attention=True)
        add("middle_1", last)
        for level in reversed(range(len(features))):
            if level < last:
                add(f"double_{level}", level, resize="double")
            for i in range(model["blocks"] + 1):
                add(f"up_{level}_{i}", level, skip=skips.pop(), attention=attends[level])
        self.last_norm, self.last = group_norm(widths), nn.Conv2d(widths, channels, 3, padding=1)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:  # [B, C, H, W], [B] -> [B, C, H, W]
        condition = self.condition(c_noise)
        x = self.first(x)
        skips = [x]
        for name, skip, leaves in self.steps:
            x = self.get_submodule(name)(torch.cat([x, skips.pop()], dim=1) if skip else x, condition)
            if leaves:
                skips.append(x)
        return self.last(functional.silu(self.last_norm(x)))


class Block(nn.Module):
    """`networks.dit.Block`."""

    def __init__(self, features: int, heads: int):
        super().__init__()
        self.modulation = nn.Linear(features, 6 * features)
        self.attention = SelfAttention(features, features // heads)
        self.hidden, self.out = nn.Linear(features, 4 * features), nn.Linear(4 * features, features)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:  # [B, S, F], [B, E] -> [B, S, F]
        parts = self.modulation(condition)[:, None].chunk(6, dim=2)
        x = x + parts[2] * self.attention(modulate(x, *parts[:2]))
        hidden = functional.gelu(self.hidden(modulate(x, *parts[3:5])), approximate="tanh")
        return x + parts[5] * self.out(hidden)


def modulate(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor) -> torch.Tensor:
    return torch.addcmul(shift, functional.layer_norm(x, x.shape[-1:], eps=1e-6), 1 + scale)


class DiT(nn.Module):
    """`networks.dit.DiT` without classes or tokens in front."""

    def __init__(self, problem: Problem):
        super().__init__()
        (height, width, channels), model = problem.image_shape, problem.model
        self.patch, features = model["patch"], model["width"]
        self.grid = height // self.patch, width // self.patch
        self.condition = Condition(features)
        self.first = nn.Linear(self.patch**2 * channels, features)
        frequencies = 10_000.0 ** -(torch.arange(features // 4, dtype=torch.float64) / (features / 4))
        rows, columns = torch.meshgrid(*(torch.arange(n, dtype=torch.float64) for n in self.grid), indexing="ij")
        angles = [torch.outer(axis.flatten(), frequencies) for axis in (rows, columns)]
        self.register_buffer("places", torch.cat([f(a) for a in angles for f in (torch.sin, torch.cos)], 1).float())
        self.blocks = nn.ModuleList(Block(features, model["heads"]) for _ in range(model["depth"]))
        self.last_modulation = nn.Linear(features, 2 * features)
        self.last = nn.Linear(features, self.patch**2 * channels)

    def forward(self, x: torch.Tensor, c_noise: torch.Tensor) -> torch.Tensor:  # [B, C, H, W], [B] -> [B, C, H, W]
        condition = self.condition(c_noise)
        (rows, columns), size = self.grid, self.patch
        x = (
            x.unflatten(3, (columns, size))
            .unflatten(2, (rows, size))
            .permute(0, 2, 4, 3, 5, 1)
            .flatten(3)
            .flatten(1, 2)
        )
        x = self.first(x) + self.places
        for block in self.blocks:
            x = block(x, condition)
        x = self.last(modulate(x, *self.last_modulation(condition)[:, None].chunk(2, dim=2)))
        x = x.unflatten(2, (size, size, -1)).unflatten(1, (rows, columns)).permute(0, 5, 1, 3, 2, 4)
        return x.flatten(4).flatten(2, 3)


class Loss(nn.Module):
    """That of the family `flow`: squared error of the velocity on the straight line from image to noise."""

    def __init__(self, problem: Problem):
        super().__init__()
        self.network = NETWORKS[problem.model["network"]](problem)

    def forward(self, image: torch.Tensor) -> torch.Tensor:  # [B, C, H, W] -> []
        t, noise = torch.rand(len(image)), torch.randn_like(image)
        share = t[:, None, None, None]
        noisy = (1 - share) * image + share * noise
        scaled = noisy * torch.rsqrt(share**2 + (0.5 * (1 - share)) ** 2)
        return (self.network(scaled, torch.logit(t) / 4) - (noise - image)).square().mean()


NETWORKS = {"unet": UNet, "dit": DiT}
MODELS = {"flow": Loss}
