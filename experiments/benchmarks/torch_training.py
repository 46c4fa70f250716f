"""Adam and gradient penalties in PyTorch.

`torch.compile` has no second derivatives through `torch.autograd.grad`. Penalties run eagerly in the compiled variants,
whose other steps are compiled, and through `torch.func.grad` in the variants that compile penalties as well.
"""

from collections.abc import Callable

import torch
from problems import Problem
from torch import nn


def adam(module: nn.Module, problem: Problem) -> torch.optim.Optimizer:
    betas = (problem.optimizer["b1"], 0.999)
    return torch.optim.Adam(module.parameters(), problem.optimizer["learning_rate"], betas, fused=True)


def update(optimizer: torch.optim.Optimizer, loss: torch.Tensor) -> None:
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()


def input_gradient(function: Callable, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradient of the sum of the function's values by its input, which can be differentiated, and the values."""
    if torch.compiler.is_compiling():

        def total(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            values = function(x)
            return values.sum(), values

        return torch.func.grad(total, has_aux=True)(x)
    x = x if x.requires_grad else x.detach().requires_grad_()
    values = function(x)
    return torch.autograd.grad(values.sum(), x, create_graph=True)[0], values


def logits_and_r1(discriminator: nn.Module, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The logits of real images and the penalty R1 on them, from one forward pass."""  # [B, C, H, W] -> [B, 1], []
    gradient, logits = input_gradient(discriminator, image)
    return logits, 0.5 * gradient.square().sum((1, 2, 3)).mean()
