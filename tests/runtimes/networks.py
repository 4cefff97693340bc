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
}


def build(name, samples=64, seed=0):
    """A network with random weights that is in evaluation mode, and inputs for it."""
    generator = torch.Generator().manual_seed(seed)
    kind, shape = NETWORKS[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = kind().eval()
    if kind is Attention:
        return model, torch.randint(0, 20, (samples, *shape), generator=generator)
    return model, torch.randn(samples, *shape, generator=generator)
