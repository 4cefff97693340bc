"""Network in Network for CIFAR-10 (Lin et al., ICLR 2014): convolutions followed by 1x1 convolutions.

The widths are those of the network published with the paper. There is no batch norm and no linear layer: the
last 1x1 convolution has one map for each class, and its mean is the logit.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path

from torch import Tensor, nn

from bitwright.zoo.weights import load_weights

__all__ = ["NiN", "nin"]


class NiN(nn.Module):
    """Three blocks of one spatial and two 1x1 convolutions, for (N, 3, 32, 32) images.

    Args:
        num_classes: the number of outputs.
        dropout: probability of zeroing a value after each of the first two blocks, in training.
    """

    def __init__(self, num_classes: int = 10, dropout: float = 0.5) -> None:
        super().__init__()
        self.block1 = _block(3, (192, 160, 96), 5)
        self.pool1 = nn.MaxPool2d(3, stride=2, padding=1)
        self.dropout1 = nn.Dropout(dropout)
        self.block2 = _block(96, (192, 192, 192), 5)
        self.pool2 = nn.AvgPool2d(3, stride=2, padding=1)
        self.dropout2 = nn.Dropout(dropout)
        self.block3 = _block(192, (192, 192, num_classes), 3)
        self.pool3 = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        for module in self.modules():
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        x = self.dropout1(self.pool1(self.block1(x)))
        x = self.dropout2(self.pool2(self.block2(x)))
        logits: Tensor = self.flatten(self.pool3(self.block3(x)))
        return logits


def _block(in_channels: int, widths: tuple[int, int, int], kernel: int) -> nn.Sequential:
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for index, width in enumerate(widths, start=1):
        size = kernel if index == 1 else 1
        layers[f"conv{index}"] = nn.Conv2d(in_channels, width, size, padding=size // 2)
        layers[f"relu{index}"] = nn.ReLU()
        in_channels = width
    return nn.Sequential(layers)


def nin(num_classes: int = 10, weights: str | Path | None = None) -> NiN:
    """Network in Network, 0.97 M parameters; with ``weights`` (a file) loaded and in evaluation mode."""
    model = NiN(num_classes)
    return model if weights is None else load_weights(model, weights)
