"""The same training steps in PyTorch: the same layers, losses, batches and Adam, written as PyTorch wants them.

Left out, in PyTorch's favour: the gradient norms and the non-finite guard that this project's step computes.
"""

import functools
import itertools
from collections.abc import Callable

import torch
import torch_adversarial
import torch_denoisers
import torch_sequences
import torch_translation
from problems import Problem, batches
from torch import nn
from torch.nn import functional
from torch_training import adam, logits_and_r1, update


def make(problem: Problem, variant: str) -> tuple[Callable[[int], float], dict]:
    """A function that takes so many steps and returns the last loss, and what it ran on.

    `variant` joins with '-' any of: 'eager', 'compiled' (losses without penalties through `torch.compile`), 'penalties'
    (those with penalties as well), 'channels_last', 'grouped' (StyleGAN2's modulated convolutions).
    """
    channels_last, compiled = "channels_last" in variant, "compiled" in variant
    compiler = torch.compile if compiled else lambda f: f
    penalty_compiler = compiler if "penalties" in variant else lambda f: f
    makers = {
        "gan": functools.partial(gan, penalty_compiler=penalty_compiler),
        "vae": vae,
        "stylegan2": functools.partial(
            torch_adversarial.stylegan2, penalty_compiler=penalty_compiler, grouped="grouped" in variant
        ),
        "cyclegan": torch_translation.cyclegan,
    }
    if problem.family in makers:
        modules, step = makers[problem.family](problem, compiler)
    else:
        models = {**torch_sequences.MODELS, **torch_denoisers.MODELS}
        modules, step = single(models[problem.family](problem), problem, compiler)
    if channels_last:
        for module in modules:
            module.to(memory_format=torch.channels_last)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    data = itertools.cycle(batches(problem))

    def prepare(image):
        image = torch.from_numpy(image).permute(0, 3, 1, 2).to(torch.float32, memory_format=layout)
        return image.div_((problem.levels - 1) / 2).sub_(1)

    def run(steps: int) -> float:
        for _ in range(steps):
            loss = step(*(prepare(next(data)) for _ in range(problem.domains)))
        return loss.item()

    return run, {
        "version": f"torch {torch.__version__}",
        "settings": f"{torch.get_num_threads()} threads, fused Adam",
        "parameters": sum(p.numel() for module in modules for p in module.parameters()),
    }


def single(model: nn.Module, problem: Problem, compiler: Callable):
    """A model whose forward pass returns its loss."""
    optimizer, forward = adam(model, problem), compiler(model)

    def step(image):
        loss = forward(image)
        update(optimizer, loss)
        return loss

    return (model,), step


def gan(problem: Problem, compiler: Callable, penalty_compiler: Callable):
    latent, penalized = problem.model["latent"], "penalty" in problem.model  # R1 of weight 1 at every step
    generator = nn.Sequential(decoder(problem, problem.image_shape[2], normalized=True), nn.Tanh())
    discriminator = encoder(problem, 1)
    optimizers = adam(generator, problem), adam(discriminator, problem)

    @compiler
    def discriminator_loss(image, fake):
        return functional.softplus(-discriminator(image)).mean() + functional.softplus(discriminator(fake)).mean()

    @penalty_compiler
    def discriminator_loss_r1(image, fake):
        logits, penalty = logits_and_r1(discriminator, image)
        return functional.softplus(-logits).mean() + functional.softplus(discriminator(fake)).mean() + penalty

    @compiler
    def generator_loss(codes):
        return functional.softplus(-discriminator(generator(codes))).mean()

    generate = compiler(generator)

    def step(image):
        with torch.no_grad():
            fake = generate(torch.randn(len(image), latent))
        discriminator.requires_grad_(True)
        loss = (discriminator_loss_r1 if penalized else discriminator_loss)(image, fake)
        update(optimizers[1], loss)
        discriminator.requires_grad_(False)
        update(optimizers[0], generator_loss(torch.randn(len(image), latent)))
        return loss

    return (generator, discriminator), step


def vae(problem: Problem, compiler: Callable):
    latent, channels = problem.model["latent"], problem.image_shape[2]
    model = nn.ModuleList([encoder(problem, 2 * latent), decoder(problem, 2 * channels, normalized=False)])
    optimizer = adam(model, problem)

    @compiler
    def negative_bound(image, noise):
        mean, log_variance = model[0](image).chunk(2, dim=1)
        log_variance = log_variance.clamp(-20, 20)
        kl = 0.5 * (mean.square() + torch.expm1(log_variance) - log_variance).sum(1)
        return (kl - log_prob(model[1](mean + torch.exp(0.5 * log_variance) * noise), image)).mean()

    def step(image):
        loss = negative_bound(image, torch.randn(len(image), latent))
        update(optimizer, loss)
        return loss

    return (model,), step


def log_prob(outputs: torch.Tensor, image: torch.Tensor) -> torch.Tensor:
    """`objectives.likelihoods.discretized_logistic` for 256 levels."""  # [B, 2C, H, W], [B, C, H, W] -> [B]
    location, log_scale = outputs.chunk(2, dim=1)
    precision = torch.exp(-log_scale.clamp(-7, 7))
    half = 1 / 255
    below = functional.logsigmoid((image + half - location) * precision)
    above = functional.logsigmoid((location - image + half) * precision)
    inside = below + above + torch.log(-torch.expm1(-2 * half * precision))
    return torch.where(image < half - 1, below, torch.where(image > 1 - half, above, inside)).sum((1, 2, 3))


def encoder(problem: Problem, out: int) -> nn.Sequential:
    """`networks.mlp.MLP` or `networks.convolutional.Encoder`, without normalisation."""
    height, width, channels = problem.image_shape
    if problem.model["network"] == "mlp":
        return nn.Sequential(nn.Flatten(), *mlp(problem, height * width * channels, out, normalized=False))
    layers = []
    for features in levels(problem):
        layers += [nn.Conv2d(channels, features, 4, 2, 1), nn.LeakyReLU(0.2, inplace=True)]
        channels = features
    size = channels * (height >> len(levels(problem))) * (width >> len(levels(problem)))
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(size, out))


def decoder(problem: Problem, out: int, normalized: bool) -> nn.Sequential:
    """`networks.mlp.MLP` or `networks.convolutional.Decoder`."""
    latent, (height, width, _) = problem.model["latent"], problem.image_shape
    if problem.model["network"] == "mlp":
        layers = mlp(problem, latent, height * width * out, normalized)
        return nn.Sequential(*layers, nn.Unflatten(1, (out, height, width)))
    features = levels(problem)[::-1]
    small = (features[0], height >> len(features), width >> len(features))
    layers = [nn.Linear(latent, small[0] * small[1] * small[2], bias=not normalized), nn.Unflatten(1, small)]
    for index, channels in enumerate(features):
        last = index == len(features) - 1
        following = out if last else features[index + 1]
        layers += [nn.BatchNorm2d(channels)] if normalized else []
        bias = last or not normalized
        layers += [nn.ReLU(inplace=True), nn.ConvTranspose2d(channels, following, 4, 2, 1, bias=bias)]
    return nn.Sequential(*layers)


def mlp(problem: Problem, size: int, out: int, normalized: bool) -> list[nn.Module]:
    layers, width = [], problem.model["width"]
    for _ in range(problem.model["depth"]):
        layers += [nn.Linear(size, width, bias=not normalized)]
        layers += [nn.BatchNorm1d(width)] if normalized else []
        layers += [nn.LeakyReLU(0.2, inplace=True)]
        size = width
    return [*layers, nn.Linear(size, out)]


def levels(problem: Problem) -> list[int]:
    """Channels a level of the convolutional networks."""
    (height, width, _), channels = problem.image_shape, []
    while height % 2 == width % 2 == 0 and min(height, width) > 4:
        channels.append(problem.model["width"] * min(2 ** len(channels), 8))
        height, width = height // 2, width // 2
    return channels
