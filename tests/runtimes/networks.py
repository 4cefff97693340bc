"""Small networks that between them hold every kind of operation that an export treats in its own way."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F


class ConvNet(nn.Module):
    """Strided, depthwise and pointwise convolutions with batch norm, ReLU6 and global pooling."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU6())
        self.depthwise = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.ReLU6())
        self.pointwise = nn.Conv2d(8, 12, 1)
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        x = self.pointwise(self.depthwise(self.first(x)))
        return self.head(x.mean((2, 3)))


class Residual(nn.Module):
    """A shortcut that drops pixels and pads channels, as in the CIFAR ResNets, and one that does nothing."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 10, 3, stride=2, padding=1)
        self.same = nn.Conv2d(10, 10, 3, padding=1)
        self.head = nn.Linear(10, 5)

    def forward(self, x):
        x = self.stem(x).relu()
        x = (self.down(x) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))).relu()
        x = (self.same(x) + x).relu()
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class UpDown(nn.Module):
    """Max and average pooling, transposed convolution, concatenation, a map of logits as output."""

    def __init__(self):
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, padding=1)
        self.middle = nn.Conv2d(6, 8, 3, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 2, stride=2)
        self.last = nn.Conv2d(15, 4, 1)

    def forward(self, x):
        a = self.down(x).relu()
        b = self.middle(F.max_pool2d(a, 2)).relu()
        pooled = F.avg_pool2d(x, 3, stride=1, padding=1)
        return self.last(torch.cat([a, self.up(b), pooled], 1))


class Attention(nn.Module):
    """Embedding, layer norm, attention, a GELU layer, mean over the tokens: linear layers on three dimensions."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(20, 16)
        self.norm = nn.LayerNorm(16)
        self.qkv = nn.Linear(16, 48)
        self.out = nn.Linear(16, 16, bias=False)
        self.wide = nn.Linear(16, 32)
        self.narrow = nn.Linear(32, 16)
        self.head = nn.Linear(16, 5)

    def forward(self, ids):
        x = self.embedding(ids)
        q, k, v = self.qkv(self.norm(x)).view(*ids.shape, 3, 2, 8).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.out(y)
        x = x + self.narrow(F.gelu(self.wide(x)))
        return self.head(x.mean(1))


class Transposed(nn.Module):
    """A linear layer that keeps its weight transposed, as Hugging Face's GPT-2 does."""

    def __init__(self, inputs, outputs):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(inputs, outputs) / inputs**0.5)
        self.bias = nn.Parameter(0.1 * torch.randn(outputs))

    def forward(self, x):
        return torch.addmm(self.bias, x.view(-1, x.shape[-1]), self.weight).view(*x.shape[:-1], -1)


class Gpt2(nn.Module):
    """A causal language model whose output layer is its table of tokens."""

    def __init__(self):
        super().__init__()
        self.tokens, self.positions = nn.Embedding(20, 16), nn.Parameter(0.1 * torch.randn(1, 6, 16))
        self.first, self.second = nn.LayerNorm(16), nn.LayerNorm(16)
        self.attend, self.project = Transposed(16, 48), Transposed(16, 16)
        self.wide, self.narrow = Transposed(16, 64), Transposed(64, 16)

    def forward(self, ids):
        x = self.tokens(ids) + self.positions
        q, k, v = (part.unflatten(-1, (2, 8)).transpose(1, 2) for part in self.attend(self.first(x)).split(16, -1))
        y = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + self.project(y)
        x = x + self.narrow(F.gelu(self.wide(self.second(x)), approximate="tanh"))
        return F.linear(x, self.tokens.weight)


class Video(nn.Module):
    """Three-dimensional convolutions: batch norm, groups, pooling, and back up."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv3d(2, 6, 3, padding=1, bias=False), nn.BatchNorm3d(6), nn.ReLU())
        self.grouped = nn.Conv3d(6, 8, 3, padding=1, groups=2)
        self.up = nn.ConvTranspose3d(8, 4, 2, stride=2)
        self.head = nn.Linear(4, 5)

    def forward(self, x):
        x = F.max_pool3d(self.stem(x), 2)
        return self.head(self.up(self.grouped(x).relu()).relu().mean((2, 3, 4)))


class Pairs(nn.Module):
    """A bilinear layer of two views of the input, and a product with a constant on the left."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(12, 6), nn.Linear(12, 5)
        self.both, self.head = nn.Bilinear(6, 5, 8), nn.Linear(8, 5)
        self.mixing = nn.Parameter(torch.randn(4, 8) / 8**0.5)

    def forward(self, x):
        x = self.both(self.left(x).relu(), self.right(x).relu()).relu()
        return self.head((self.mixing @ torch.stack([x, x.flip(1)], 2)).mean(2).repeat(1, 2))


class Bag(nn.Module):
    """The mean of a table's rows."""

    def __init__(self):
        super().__init__()
        self.words, self.hidden, self.head = nn.EmbeddingBag(20, 16), nn.Linear(16, 24), nn.Linear(24, 5)
        nn.init.normal_(self.words.weight)

    def forward(self, ids):
        return self.head(self.hidden(self.words(ids)).relu())


class Mlp(nn.Module):
    """Linear layers on matrices, with activations that are no clamps."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(12, 24), nn.LeakyReLU(0.1), nn.Linear(24, 24), nn.Sigmoid(), nn.Linear(24, 16), nn.ReLU()
        )
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        return self.head(self.layers(x)).softmax(-1)


class Signal(nn.Module):
    """One-dimensional convolutions, hard swish, multiplication of two branches."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(2, 6, 5, padding=2)
        self.gate = nn.Conv1d(2, 6, 1)
        self.last = nn.Conv1d(6, 5, 3)

    def forward(self, x):
        return self.last(F.hardswish(self.conv(x)) * self.gate(x).sigmoid()).mean(2)


IMAGE = (3, 8, 8)
NETWORKS = {
    "conv": (ConvNet, IMAGE),
    "residual": (Residual, IMAGE),
    "updown": (UpDown, IMAGE),
    "attention": (Attention, (6,)),
    "mlp": (Mlp, (12,)),
    "signal": (Signal, (2, 16)),
    "gpt2": (Gpt2, (6,)),
    "video": (Video, (2, 4, 6, 6)),
    "pairs": (Pairs, (12,)),
    "bag": (Bag, (6,)),
}


def build(name, samples=64, seed=0):
    """A network with random weights that is in evaluation mode, and inputs for it."""
    generator = torch.Generator().manual_seed(seed)
    kind, shape = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind().eval()
    if kind in (Attention, Gpt2, Bag):
        return model, torch.randint(0, 20, (samples, *shape), generator=generator)
    return model, torch.randn(samples, *shape, generator=generator)
