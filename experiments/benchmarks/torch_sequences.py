"""This project's autoregressive networks in PyTorch; each forward pass returns the mean negative log-likelihood."""

import torch
from problems import Problem
from torch import nn
from torch.nn import functional


class Rows(nn.Module):
    """`networks.recurrent.RecurrentStack` of one layer, a row of the image a step.

    A step's row is told by one more input for each row, whose kernel is this project's bias of each row.
    """

    def __init__(self, problem: Problem):
        super().__init__()
        height, width, channels = problem.image_shape
        size, hidden = width * channels, problem.model["width"]
        cell = {"gru": nn.GRU, "lstm": nn.LSTM}[problem.model["cell"]]
        self.recurrent = cell(size + height, hidden)
        self.output = nn.Linear(hidden, size)
        self.register_buffer("place", torch.eye(height)[:, None].repeat(1, problem.batch_size, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:  # [B, C, H, W] -> []
        rows = image.permute(2, 0, 3, 1).flatten(2)
        before = functional.pad(rows[:-1], (0, 0, 0, 0, 1, 0))
        logits = self.output(self.recurrent(torch.cat([before, self.place], dim=2))[0])
        return functional.softplus(-rows * logits).sum((0, 2)).mean()


def gate(x: torch.Tensor) -> torch.Tensor:  # [B, 2 F, H, W] -> [B, F, H, W]
    value, opening = x.chunk(2, dim=1)
    return torch.tanh(value) * torch.sigmoid(opening)


class GatedLayer(nn.Module):
    """`networks.gated.GatedLayer`: padded on both sides by the convolution, and what is too much left off."""

    def __init__(self, features: int, reach: int):
        super().__init__()
        self.down = nn.Conv2d(features, 2 * features, (reach + 1, 2 * reach + 1), padding=reach)
        self.link = nn.Conv2d(2 * features, 2 * features, 1)
        self.across = nn.Conv2d(features, 2 * features, (1, reach + 1), padding=(0, reach))
        self.out = nn.Conv2d(features, features, 1)

    def forward(self, vertical: torch.Tensor, horizontal: torch.Tensor):  # 2 x [B, F, H, W] -> the same
        height, width = vertical.shape[2:]
        down = self.down(vertical)[:, :, :height]
        across = self.across(horizontal)[..., :width] + self.link(down)
        return gate(down), horizontal + self.out(gate(across))


class PixelCNN(nn.Module):
    """`networks.gated.GatedPixelCNN` of binary images."""

    def __init__(self, problem: Problem):
        super().__init__()
        height, width, channels = problem.image_shape
        features, reach = problem.model["features"], problem.model["first_kernel_radius"]
        self.place = nn.Parameter(torch.zeros(features, height, width))
        self.first_down = nn.Conv2d(channels, features, (reach, 2 * reach + 1), padding=reach)
        self.first_across = nn.Conv2d(channels, features, (1, reach), padding=(0, reach))
        self.stack = nn.ModuleList(
            GatedLayer(features, problem.model["kernel_radius"]) for _ in range(problem.model["layers"])
        )
        self.hidden = nn.Conv2d(features, features, 1)
        self.output = nn.Conv2d(features, channels, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:  # [B, C, H, W] -> []
        height, width = image.shape[2:]
        vertical = self.first_down(image)[:, :, :height] + self.place
        horizontal = self.first_across(image)[..., :width]
        for layer in self.stack:
            vertical, horizontal = layer(vertical, horizontal)
        logits = self.output(functional.relu(self.hidden(functional.relu(horizontal))))
        return functional.softplus(-image * logits).sum((1, 2, 3)).mean()


class Block(nn.Module):
    """`networks.attention.Block`."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.attention_norm, self.perceptron_norm = (nn.LayerNorm(width, eps=1e-6) for _ in range(2))
        self.heads_in = nn.Linear(width, 3 * width, bias=False)
        self.heads_out = nn.Linear(width, width)
        self.hidden = nn.Linear(width, 4 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [B, T, width] -> [B, T, width]
        parts = self.heads_in(self.attention_norm(x)).unflatten(2, (3, self.heads, -1))
        query, key, value = parts.permute(2, 0, 3, 1, 4)
        attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)
        x = x + self.heads_out(attended.transpose(1, 2).flatten(2))
        return x + self.out(functional.gelu(self.hidden(self.perceptron_norm(x)), approximate="tanh"))


class Transformer(nn.Module):
    """`networks.attention.Decoder` with learned positions over the pixels of a grey image."""

    def __init__(self, problem: Problem):
        super().__init__()
        width = problem.model["width"]
        self.levels = problem.levels
        self.prefix = nn.Embedding(1, width)
        self.token = nn.Embedding(problem.levels, width)
        self.row, self.column = (nn.Embedding(size, width) for size in problem.image_shape[:2])
        self.blocks = nn.ModuleList(Block(width, problem.model["heads"]) for _ in range(problem.model["depth"]))
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.logits = nn.Linear(width, problem.levels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:  # [B, 1, H, W] -> []
        tokens = ((image + 1) * ((self.levels - 1) / 2)).round().long().flatten(1)
        start = self.prefix.weight.expand(len(tokens), 1, -1)
        places = (self.row.weight[:, None] + self.column.weight[None]).flatten(0, 1)
        x = torch.cat([start, self.token(tokens[:, :-1])], dim=1) + places
        for block in self.blocks:
            x = block(x)
        logits = self.logits(self.norm(x))
        return functional.cross_entropy(logits.flatten(0, 1), tokens.flatten(), reduction="sum") / len(image)


MODELS = {"rnn": Rows, "pixelcnn": PixelCNN, "transformer": Transformer}
