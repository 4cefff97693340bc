"""Networks of thirty kinds with their data, small enough to be trained in seconds: what `networks.py` measures.

Each is built in code, after the published one that its name says, at a tenth of its width or less. Images are MNIST
digits on 32 x 32 pixels, texts come from SST-2 and the review sentences, all other data is drawn by a formula. Seeds
are fixed, so the same machine makes the same network.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from _text import Block, LanguageModel, Vocabulary, sentences
from bitwright import tasks
from bitwright.data.canvas import digits_on_canvas
from bitwright.tasks import Task
from bitwright.zoo import decode, unet
from bitwright.zoo.detector import grid_detector

TRAINED, TESTED = 1600, 400
"""Samples."""


@dataclass
class Case:
    """A network, its data and what it is for.

    Attributes:
        model: not yet trained.
        train: inputs (a tensor, or a tuple of several) and targets.
        test: likewise, unseen.
        task: what the outputs mean.
        loss: (outputs, targets) -> number.
        epochs: over the training samples.
        rate: learning rate of Adam.
    """

    model: nn.Module
    train: tuple[Any, Any]
    test: tuple[Any, Any]
    task: Task = field(default_factory=tasks.Classification)
    loss: Callable[[Any, Any], Tensor] = functional.cross_entropy
    epochs: int = 3
    rate: float = 3e-3


def trained(case: Case) -> nn.Module:
    """The model, trained."""
    inputs, targets = case.train
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    torch.manual_seed(0)
    optimizer = torch.optim.Adam(case.model.parameters(), lr=case.rate)
    steps = case.epochs * math.ceil(len(targets) / 32)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, case.rate, total_steps=steps)
    case.model.train()
    for _ in range(case.epochs):
        for chosen in torch.randperm(len(targets)).split(32):
            loss = case.loss(case.model(*(part[chosen] for part in tensors)), targets[chosen])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(case.model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
    return case.model.eval()


# Data.


def digits(data: Path) -> dict[str, tuple[Tensor, Tensor]]:
    """MNIST on (N, 1, 32, 32) in [0, 1]."""
    found = {}
    for part, name, count in (("train", "train", TRAINED), ("test", "test", TESTED)):
        with np.load(data / "mnist" / f"{name}.npz") as file:
            images, labels = file["x"][:count], file["y"][:count]
        pixels = torch.from_numpy(images).reshape(-1, 1, 28, 28).float() / 255
        found[part] = functional.pad(pixels, (2, 2, 2, 2)), torch.from_numpy(labels).long()
    return found


def images(data: Path, model: nn.Module, **options: Any) -> Case:
    """A classifier of digits."""
    parts = digits(data)
    return Case(model, parts["train"], parts["test"], **{"epochs": 4, "rate": 6e-3, **options})


def texts(data: Path, model: nn.Module, length: int = 32, **options: Any) -> Case:
    """A classifier of sentences into good and bad, as (N, length) numbers of 2,000 words."""
    known = Vocabulary(sentences(data, "sst2/train.tsv"), 2000)
    parts = []
    for name, count in (("train", 2 * TRAINED), ("dev", TESTED)):
        rows = (data / "sst2" / f"{name}.tsv").read_text(encoding="utf-8").splitlines()
        rows = [row for row in rows if row.rpartition("\t")[2].strip() in ("0", "1")][:count]
        numbers = torch.zeros(len(rows), length, dtype=torch.long)
        for i, row in enumerate(rows):
            words = known._numbers(row.rpartition("\t")[0])[:length]
            numbers[i, : len(words)] = torch.tensor(words, dtype=torch.long)
        parts.append((numbers, torch.tensor([int(row.rpartition("\t")[2]) for row in rows])))
    return Case(model, parts[0], parts[1], **options)


def stream(data: Path, model: nn.Module, **options: Any) -> Case:
    """A language model on sentences: 32 of 500 words, and the words that follow them."""
    train_texts, test_texts = sentences(data, "sst2/train.tsv"), sentences(data, "sst2/dev.tsv")
    known = Vocabulary(train_texts, 500)
    train, test = known.windows(train_texts, 32), known.windows(test_texts, 32)
    cut = slice(0, TRAINED)
    return Case(
        model,
        (train[0][cut], train[1][cut]),
        (test[0][:TESTED], test[1][:TESTED]),
        tasks.Language(),
        lambda logits, wanted: functional.cross_entropy(logits.flatten(0, 1), wanted.flatten()),
        **options,
    )


def drawn(make: Callable[[int, int], tuple[Any, Any]], model: nn.Module, **options: Any) -> Case:
    """Data by a formula: (samples, seed) -> inputs and targets."""
    return Case(model, make(TRAINED, 1), make(TESTED, 2), **options)


def squared(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error."""
    return functional.mse_loss(outputs, targets)


# Parts.


class Add(nn.Module):
    """A branch beside a shortcut."""

    def __init__(self, branch: nn.Module, shortcut: nn.Module | None = None, after: nn.Module | None = None) -> None:
        super().__init__()
        self.branch, self.shortcut, self.after = branch, shortcut or nn.Identity(), after or nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.after(self.branch(x) + self.shortcut(x))
        return out


class Cat(nn.Module):
    """Branches beside one another."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([branch(x) for branch in self.branches], 1)


class Excite(nn.Module):
    """Squeeze and excitation: channels scaled by what the whole image says."""

    def __init__(self, channels: int, gate: nn.Module) -> None:
        super().__init__()
        self.down, self.up, self.gate = (
            nn.Conv2d(channels, channels // 4, 1),
            nn.Conv2d(channels // 4, channels, 1),
            gate,
        )

    def forward(self, x: Tensor) -> Tensor:
        scale = self.up(functional.relu(self.down(x.mean((2, 3), keepdim=True))))
        out: Tensor = x * self.gate(scale)
        return out


class Shuffle(nn.Module):
    """Channels of two groups taken in turn."""

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Tokens(nn.Module):
    """An image (N, C, H, W) as tokens (N, H W, C), and layers on them; back to an image if asked."""

    def __init__(self, *layers: nn.Module, back: bool = False) -> None:
        super().__init__()
        self.layers, self.back = nn.Sequential(*layers), back

    def forward(self, x: Tensor) -> Tensor:
        n, c, h, w = x.shape
        tokens: Tensor = self.layers(x.flatten(2).transpose(1, 2))
        return tokens.transpose(1, 2).reshape(n, -1, h, w) if self.back else tokens


class Mean(nn.Module):
    """The mean over some axes."""

    def __init__(self, *axes: int) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(self.axes)


class Turned(nn.Module):
    """A layer along the tokens instead of the channels."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.layers(x.transpose(1, 2))
        return out.transpose(1, 2)


class Places(nn.Module):
    """Adds learned places to tokens."""

    def __init__(self, length: int, width: int) -> None:
        super().__init__()
        self.places = nn.Parameter(0.02 * torch.randn(1, length, width))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.places


def conv(
    a: int, b: int, kernel: int = 3, stride: int = 1, groups: int = 1, act: nn.Module | None = None
) -> nn.Sequential:
    """Convolution, batch norm and an activation (None: ReLU)."""
    layer = nn.Conv2d(a, b, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(b), act or nn.ReLU())


def head(channels: int, classes: int = 10) -> nn.Sequential:
    """Global average pooling and a linear layer."""
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, classes))


def residual(a: int, b: int, stride: int = 1, groups: int = 1) -> Add:
    """A residual block of two convolutions."""
    short = None if a == b and stride == 1 else nn.Sequential(nn.Conv2d(a, b, 1, stride), nn.BatchNorm2d(b))
    return Add(nn.Sequential(conv(a, b, 3, stride, groups), conv(b, b, 3, 1, groups, nn.Identity())), short, nn.ReLU())


def inverted(a: int, b: int, stride: int, act: Callable[[], nn.Module], gate: nn.Module | None = None) -> nn.Module:
    """An inverted residual: expand, depthwise, squeeze and excite, project."""
    wide = 4 * a
    excite = [Excite(wide, gate)] if gate is not None else []
    layers = nn.Sequential(
        conv(a, wide, 1, act=act()),
        conv(wide, wide, 3, stride, wide, act()),
        *excite,
        conv(wide, b, 1, act=nn.Identity()),
    )
    return Add(layers) if a == b and stride == 1 else layers


def mobile(act: Callable[[], nn.Module], gate: nn.Module | None = None) -> nn.Sequential:
    """A MobileNet- or EfficientNet-like network."""
    return nn.Sequential(
        conv(1, 16, 3, 2, act=act()),
        inverted(16, 16, 1, act, gate),
        inverted(16, 24, 2, act, gate),
        inverted(24, 24, 1, act, gate),
        inverted(24, 40, 2, act, gate),
        conv(40, 96, 1, act=act()),
        head(96),
    )


def attention(width: int, heads: int = 4) -> Block:
    """A block of a transformer, norms first."""
    return Block(width, heads, 2 * width, True, 1e-5)


class Mlp(nn.Module):
    """A gated product of linear layers (SwiGLU)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, 2 * width, bias=False), nn.Linear(width, 2 * width, bias=False)
        self.down = nn.Linear(2 * width, width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.down(functional.silu(self.gate(x)) * self.up(x))
        return out


class Llama(nn.Module):
    """Rotary places, RMS norms, gated linear layers, grouped keys and values."""

    def __init__(self, words: int = 500, width: int = 64, layers: int = 2, heads: int = 4, length: int = 32) -> None:
        super().__init__()
        self.heads, self.each = heads, width // heads
        self.words = nn.Embedding(words, width)
        self.queries = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.keys = nn.ModuleList(nn.Linear(width, width // 2, bias=False) for _ in range(layers))
        self.values = nn.ModuleList(nn.Linear(width, width // 2, bias=False) for _ in range(layers))
        self.outputs = nn.ModuleList(nn.Linear(width, width, bias=False) for _ in range(layers))
        self.mlps = nn.ModuleList(Mlp(width) for _ in range(layers))
        self.norms = nn.ModuleList(nn.RMSNorm(width) for _ in range(2 * layers + 1))
        self.head = nn.Linear(width, words, bias=False)
        angles = torch.outer(torch.arange(length), 10000.0 ** (-torch.arange(0, self.each, 2) / self.each))
        self.register_buffer("cos", angles.cos().repeat(1, 2))
        self.register_buffer("sin", angles.sin().repeat(1, 2))

    def turn(self, x: Tensor) -> Tensor:
        """Rotate pairs of channels by the place."""
        half = x.shape[-1] // 2
        turned = torch.cat((-x[..., half:], x[..., :half]), -1)
        return x * self.cos + turned * self.sin

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) -> (N, T, words)."""
        x = self.words(tokens)
        n, t, width = x.shape
        for i, mlp in enumerate(self.mlps):
            y = self.norms[2 * i](x)
            q = self.turn(self.queries[i](y).view(n, t, self.heads, self.each).transpose(1, 2))
            k = self.turn(self.keys[i](y).view(n, t, self.heads // 2, self.each).transpose(1, 2))
            v = self.values[i](y).view(n, t, self.heads // 2, self.each).transpose(1, 2)
            k, v = k.repeat_interleave(2, 1), v.repeat_interleave(2, 1)
            mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + self.outputs[i](mixed.transpose(1, 2).reshape(n, t, width))
            x = x + mlp(self.norms[2 * i + 1](x))
        out: Tensor = self.head(self.norms[-1](x))
        return out


class Encoder(nn.Module):
    """A BERT-like classifier of texts: norms behind the blocks, the mean of the tokens."""

    def __init__(
        self, words: int = 2000, width: int = 64, layers: int = 2, length: int = 32, heads: int = 4, inner: int = 128
    ) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), Places(length, width)
        self.norm = nn.LayerNorm(width)
        self.blocks = nn.Sequential(*(Block(width, heads, inner, False, 1e-5) for _ in range(layers)))
        self.head = nn.Linear(width, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) -> (N, 2)."""
        x = self.blocks(self.norm(self.places(self.words(tokens))))
        out: Tensor = self.head(x.mean(1))
        return out


class Recurrent(nn.Module):
    """A recurrent classifier of texts."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU], both: bool = False) -> None:
        super().__init__()
        self.words = nn.Embedding(2000, 32)
        self.layer = kind(32, 48, batch_first=True, bidirectional=both)
        self.head = nn.Linear(96 if both else 48, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) -> (N, 2)."""
        states, _ = self.layer(self.words(tokens))
        out: Tensor = self.head(states.mean(1))
        return out


class TextCnn(nn.Module):
    """Convolutions of several widths over words, the largest value of each."""

    def __init__(self) -> None:
        super().__init__()
        self.words = nn.Embedding(2000, 32)
        self.convs = nn.ModuleList(nn.Conv1d(32, 32, k, padding=k // 2) for k in (3, 4, 5))
        self.head = nn.Linear(96, 2)

    def forward(self, tokens: Tensor) -> Tensor:
        """(N, T) -> (N, 2)."""
        x = self.words(tokens).transpose(1, 2)
        out: Tensor = self.head(torch.cat([functional.relu(layer(x)).amax(2) for layer in self.convs], 1))
        return out


class Siamese(nn.Module):
    """Two images through the same layers, and what tells them apart."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(1, 16, 3, 2), conv(16, 32, 3, 2), nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 2))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Two (N, 1, 32, 32) -> (N, 2): different, alike."""
        a, b = self.body(a), self.body(b)
        out: Tensor = self.head(torch.cat(((a - b).abs(), a * b), 1))
        return out


class Seq2Seq(nn.Module):
    """An encoder and a decoder with attention between them, teacher-forced."""

    def __init__(self, words: int = 20, width: int = 48) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(words, width), Places(12, width)
        self.transformer = nn.Transformer(width, 4, 1, 1, 2 * width, 0.0, batch_first=True)
        self.head = nn.Linear(width, words)
        self.register_buffer("causal", nn.Transformer.generate_square_subsequent_mask(12))

    def forward(self, source: Tensor, shifted: Tensor) -> Tensor:
        """Two (N, 12) -> (N, 12, words)."""
        source, shifted = self.places(self.words(source)), self.places(self.words(shifted))
        out: Tensor = self.head(self.transformer(source, shifted, tgt_mask=self.causal, tgt_is_causal=True))
        return out


class Graph(nn.Module):
    """Two rounds of messages between 16 nodes, along edges that come as an input."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(4, 32), nn.Linear(32, 32), nn.Linear(32, 2)

    def forward(self, nodes: Tensor, edges: Tensor) -> Tensor:
        """(N, 16, 4) and (N, 16, 16) -> (N, 2)."""
        x = functional.relu(edges @ self.first(nodes))
        x = functional.relu(edges @ self.second(x))
        out: Tensor = self.head(x.mean(1))
        return out


class Table(nn.Module):
    """Numbers and categories of a table."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds = nn.Embedding(12, 8)
        self.layers = nn.Sequential(nn.Linear(8 + 24, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 1))

    def forward(self, numbers: Tensor, kinds: Tensor) -> Tensor:
        """(N, 8) and (N, 3) -> (N, 1)."""
        out: Tensor = self.layers(torch.cat((numbers, self.kinds(kinds).flatten(1)), 1))
        return out


# Formulas.


def waves(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Sounds of one of four pitches in noise, (N, 1, 512)."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, 4, (count,), generator=generator)
    time = torch.linspace(0, 1, 512)
    pitch = 12.0 * 1.5 ** kind.float() * (1 + 0.1 * torch.randn(count, generator=generator))
    phase = 6.3 * torch.rand(count, 1, generator=generator)
    sound = torch.sin(6.28 * pitch[:, None] * time + phase) + 0.8 * torch.randn(count, 512, generator=generator)
    return sound[:, None], kind


def moving(count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Films (N, 1, 6, 16, 16) of a spot that moves left, right, up or down."""
    generator = torch.Generator().manual_seed(seed)
    kind = torch.randint(0, 4, (count,), generator=generator)
    start = 4 + 8 * torch.rand(count, 2, generator=generator)
    step = torch.tensor([[0.0, -1.2], [0.0, 1.2], [-1.2, 0.0], [1.2, 0.0]])[kind]
    centre = start[:, None] + step[:, None] * torch.arange(6.0)[None, :, None]
    axis = torch.arange(16.0)
    down = (axis[None, None, :] - centre[..., :1]).square()
    right = (axis[None, None, :] - centre[..., 1:]).square()
    film = torch.exp(-(down[..., :, None] + right[..., None, :]) / 3)
    return (film + 0.3 * torch.randn(film.shape, generator=generator))[:, None], kind


def rows(count: int, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Tables: 8 numbers and 3 categories that make one number."""
    generator = torch.Generator().manual_seed(seed)
    x, kinds = torch.randn(count, 8, generator=generator), torch.randint(0, 12, (count, 3), generator=generator)
    y = x[:, 0] * x[:, 1] + x[:, 2].abs() + 0.3 * kinds[:, 0].float() * x[:, 3]
    return (x, kinds), y[:, None]


def reversed_words(count: int, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Twelve words, to be written backwards."""
    generator = torch.Generator().manual_seed(seed)
    source = torch.randint(1, 20, (count, 12), generator=generator)
    wanted = source.flip(1)
    return (source, functional.pad(wanted[:, :-1], (1, 0))), wanted


def networks_of_nodes(count: int, seed: int) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """Nodes with edges: whether neighbours are alike."""
    generator = torch.Generator().manual_seed(seed)
    alike = torch.randint(0, 2, (count,), generator=generator)
    sign = torch.randint(0, 2, (count, 16, 1), generator=generator).float() * 2 - 1
    nodes = torch.cat((sign, torch.randn(count, 16, 3, generator=generator)), 2)
    same = (sign == sign.transpose(1, 2)).float()
    chance = torch.where(alike[:, None, None] == 1, 0.1 + 0.3 * same, 0.4 - 0.3 * same)
    edges = (torch.rand(count, 16, 16, generator=generator) < chance).float() + torch.eye(16)
    return (nodes, edges / edges.sum(2, keepdim=True)), alike


def pairs(data: Path) -> dict[str, tuple[tuple[Tensor, Tensor], Tensor]]:
    """Two digits, and whether they are the same one."""
    found = {}
    for part, (x, y) in digits(data).items():
        order = np.random.RandomState(0).permutation(len(y))
        other = torch.from_numpy(order)
        for i in range(0, len(y), 2):  # every second one has a partner of its own class
            same = np.flatnonzero((y == y[i]).numpy())
            other[i] = int(same[random.Random(i).randrange(len(same))])
        found[part] = ((x, x[other]), (y == y[other]).long())
    return found


def pixels(data: Path, count: int, seed: int, part: str) -> Any:
    """Canvases of digits."""
    with np.load(data / "mnist" / f"{part}.npz") as file:
        return digits_on_canvas(file["x"], file["y"], count, seed=seed, size=40, most=2, heights=(14, 22))


# The networks.


def segmentation(data: Path, model: nn.Module) -> Case:
    """Each pixel's digit, or background."""
    train, test = pixels(data, TRAINED, 1, "train"), pixels(data, TESTED // 2, 2, "test")
    weights = torch.cat((torch.tensor([0.2]), torch.ones(10)))
    loss = lambda logits, wanted: functional.cross_entropy(logits, wanted, weights)  # noqa: E731
    return Case(model, (train.images, train.masks), (test.images, test.masks), tasks.Dense(), loss, 4, 4e-3)


def detection(data: Path) -> Case:
    """Boxes around digits."""
    from _task_networks import boxes_of, canvases, detector_loss

    train, test = canvases(data, "train", TRAINED, 3), canvases(data, "test", TESTED // 2, 4)
    loss = lambda outputs, wanted: detector_loss(outputs, wanted[..., :4], wanted[..., 4].long())  # noqa: E731
    parts = (train.images, boxes_of(train)), (test.images, boxes_of(test))
    return Case(grid_detector(), *parts, tasks.Detection(decode=decode), loss, 6, 4e-3)


def restored(data: Path, model: nn.Module, small: bool = False) -> Case:
    """Digits without their noise, or at twice the size."""
    found = []
    for part, (x, _) in digits(data).items():
        generator = torch.Generator().manual_seed(len(part))
        noisy = functional.avg_pool2d(x, 2) if small else x + 0.4 * torch.randn(x.shape, generator=generator)
        found.append((noisy, x))
    return Case(model, found[0], found[1], tasks.Regression(), squared)


def _vgg() -> nn.Module:
    pool = nn.MaxPool2d(2)
    return nn.Sequential(conv(1, 16), pool, conv(16, 32), pool, conv(32, 48), conv(48, 48), pool, head(48))


def _alexnet() -> nn.Module:
    first = nn.Sequential(nn.Conv2d(1, 16, 5, 2, 2), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3, 1, 1), nn.ReLU())
    return nn.Sequential(first, nn.Flatten(), nn.Linear(2048, 64), nn.ReLU(), nn.Linear(64, 10))


def _densenet() -> nn.Module:
    layers: list[nn.Module] = [conv(1, 16, 3, 2)]
    for i in range(4):
        layers.append(Cat(nn.Identity(), conv(16 + 8 * i, 8)))
    return nn.Sequential(*layers, nn.AvgPool2d(2), conv(48, 48, 1), head(48))


def _inception() -> nn.Module:
    def mixed(a: int) -> Cat:
        pooled = nn.Sequential(nn.MaxPool2d(3, 1, 1), conv(a, 8, 1))
        return Cat(conv(a, 8, 1), nn.Sequential(conv(a, 8, 1), conv(8, 16)), pooled)

    return nn.Sequential(conv(1, 16, 3, 2), mixed(16), mixed(32), nn.MaxPool2d(2), mixed(32), head(32))


def _shufflenet() -> nn.Module:
    def unit(channels: int) -> nn.Module:
        mid = channels // 2
        parts = conv(channels, mid, 1, groups=2), Shuffle(), conv(mid, mid, 3, 1, mid, nn.Identity())
        return Add(nn.Sequential(*parts, conv(mid, channels, 1, groups=2, act=nn.Identity())), after=nn.ReLU())

    return nn.Sequential(conv(1, 32, 3, 2), unit(32), conv(32, 48, 3, 2), unit(48), unit(48), head(48))


def _convnext() -> nn.Module:
    def block(width: int) -> nn.Module:
        mlp = Tokens(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width), back=True
        )
        return Add(nn.Sequential(nn.Conv2d(width, width, 7, 1, 3, groups=width), mlp))

    down = nn.Conv2d(32, 48, 2, 2)
    return nn.Sequential(
        nn.Conv2d(1, 32, 4, 4), block(32), block(32), down, block(48), Tokens(Mean(1), nn.Linear(48, 10))
    )


def _vit() -> nn.Module:
    layers = Places(64, 48), attention(48), attention(48), nn.LayerNorm(48), Mean(1), nn.Linear(48, 10)
    return nn.Sequential(nn.Conv2d(1, 48, 4, 4), Tokens(*layers))


def _mixer() -> nn.Module:
    def block() -> list[nn.Module]:
        across = nn.Sequential(nn.LayerNorm(48), Turned(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)))
        along = nn.Sequential(nn.LayerNorm(48), nn.Linear(48, 96), nn.GELU(), nn.Linear(96, 48))
        return [Add(across), Add(along)]

    return nn.Sequential(
        nn.Conv2d(1, 48, 4, 4), Tokens(*block(), *block(), nn.LayerNorm(48), Mean(1), nn.Linear(48, 10))
    )


def _mobilevit() -> nn.Module:
    inner = Tokens(attention(32), attention(32), nn.LayerNorm(32), back=True)
    return nn.Sequential(
        conv(1, 16, 3, 2, act=nn.SiLU()),
        inverted(16, 24, 2, nn.SiLU),
        conv(24, 32, 1, act=nn.SiLU()),
        Add(inner),
        inverted(32, 48, 2, nn.SiLU),
        head(48),
    )


def _upsampled() -> nn.Module:
    up = nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False)
    return nn.Sequential(
        conv(1, 16), conv(16, 32, 3, 2), conv(32, 32), conv(32, 32), up, conv(32, 16), nn.Conv2d(16, 11, 1)
    )


def _autoencoder() -> nn.Module:
    up = nn.ConvTranspose2d(32, 16, 2, 2), nn.ReLU(), nn.ConvTranspose2d(16, 8, 2, 2), nn.ReLU()
    return nn.Sequential(conv(1, 16, 3, 2), conv(16, 32, 3, 2), *up, nn.Conv2d(8, 1, 3, 1, 1))


def _enlarged() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 24, 5, 1, 2), nn.ReLU(), conv(24, 24), nn.Conv2d(24, 4, 3, 1, 1), nn.PixelShuffle(2)
    )


def _sound() -> nn.Module:
    def layer(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv1d(a, b, 9, 4, 4), nn.BatchNorm1d(b), nn.ReLU()]

    return nn.Sequential(*layer(1, 16), *layer(16, 32), *layer(32, 32), Mean(2), nn.Linear(32, 4))


def _film() -> nn.Module:
    def layer(a: int, b: int) -> list[nn.Module]:
        return [nn.Conv3d(a, b, 3, (1, 2, 2), 1), nn.BatchNorm3d(b), nn.ReLU()]

    return nn.Sequential(
        *layer(1, 12), *layer(12, 24), nn.Conv3d(24, 24, 3, 1, 1), nn.ReLU(), nn.Flatten(), nn.Linear(2304, 4)
    )


def _siamese(data: Path) -> Case:
    parts = pairs(data)
    return Case(Siamese(), parts["train"], parts["test"])


def _reversing(data: Path) -> Case:
    loss = lambda logits, wanted: functional.cross_entropy(logits.flatten(0, 1), wanted.flatten())  # noqa: E731
    return drawn(reversed_words, Seq2Seq(), task=tasks.Language(), loss=loss, epochs=12, rate=4e-3)


def networks() -> dict[str, tuple[str, Callable[[Path], Case]]]:
    """Name -> kind, and what builds it from the data folder."""
    relu6, silu, swish = nn.ReLU6, nn.SiLU, nn.Hardswish
    return {
        "AlexNet-like": ("plain CNN", lambda d: images(d, _alexnet())),
        "VGG-like": ("plain CNN", lambda d: images(d, _vgg())),
        "ResNet-like": (
            "residual CNN",
            lambda d: images(
                d, nn.Sequential(conv(1, 16), residual(16, 16), residual(16, 32, 2), residual(32, 48, 2), head(48))
            ),
        ),
        "ResNeXt-like": (
            "residual CNN",
            lambda d: images(
                d, nn.Sequential(conv(1, 16, 3, 2), residual(16, 32, 2, 4), residual(32, 32, 1, 4), head(32))
            ),
        ),
        "DenseNet-like": ("CNN with cat", lambda d: images(d, _densenet())),
        "Inception-like": ("CNN with cat", lambda d: images(d, _inception())),
        "ShuffleNet-like": ("depthwise", lambda d: images(d, _shufflenet())),
        "MobileNetV2-like": ("depthwise", lambda d: images(d, mobile(relu6))),
        "MobileNetV3-like": ("depthwise", lambda d: images(d, mobile(swish, nn.Hardsigmoid()))),
        "EfficientNet-like": ("depthwise", lambda d: images(d, mobile(silu, nn.Sigmoid()))),
        "ConvNeXt-like": ("depthwise", lambda d: images(d, _convnext(), rate=4e-3)),
        "MLP-Mixer-like": ("linear", lambda d: images(d, _mixer(), epochs=6, rate=3e-3)),
        "ViT-like": ("transformer", lambda d: images(d, _vit(), epochs=8, rate=2e-3)),
        "MobileViT-like": ("transformer", lambda d: images(d, _mobilevit())),
        "Siamese": ("two inputs", _siamese),
        "U-Net": ("segmentation", lambda d: segmentation(d, unet(1, 11, width=8, depth=2))),
        "FCN, bilinear": ("segmentation", lambda d: segmentation(d, _upsampled())),
        "one-stage detector": ("detection", detection),
        "autoencoder": ("regression", lambda d: restored(d, _autoencoder())),
        "super-resolution": ("regression", lambda d: restored(d, _enlarged(), small=True)),
        "table": ("regression", lambda d: drawn(rows, Table(), task=tasks.Regression(), loss=squared, epochs=12)),
        "Conv1d on sound": ("audio", lambda d: drawn(waves, _sound(), epochs=4)),
        "Conv3d on film": ("video", lambda d: drawn(moving, _film(), epochs=3)),
        "TextCNN": ("text", lambda d: texts(d, TextCnn())),
        "BERT-like": ("transformer", lambda d: texts(d, Encoder(), rate=1e-3)),
        "LSTM": ("recurrent", lambda d: texts(d, Recurrent(nn.LSTM))),
        "GRU, both directions": ("recurrent", lambda d: texts(d, Recurrent(nn.GRU, both=True))),
        "GPT-2-like": (
            "language model",
            lambda d: stream(d, LanguageModel(500, 32, 64, 4, 2, 0.0), epochs=4),
        ),
        "Llama-like": ("language model", lambda d: stream(d, Llama(), epochs=4)),
        "encoder and decoder": ("language model", _reversing),
        "messages on graphs": ("graph", lambda d: drawn(networks_of_nodes, Graph(), epochs=6)),
    }
