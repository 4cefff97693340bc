"""The small residual network of the embedded example, for the 8x8 images of handwritten digits."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from bitwright.zoo.resnet_cifar import BasicBlock
from bitwright.zoo.weights import load_weights

__all__ = ["DigitsNet", "digits_net"]


class DigitsNet(nn.Module):
    """A convolution, two residual blocks and a linear layer, for (N, 1, 8, 8) images."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.relu = nn.ReLU()
        self.layer1 = BasicBlock(16, 16)
        self.layer2 = BasicBlock(16, 32, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        x = self.layer2(self.layer1(self.relu(self.bn1(self.conv1(x)))))
        logits: Tensor = self.linear(self.flatten(self.pool(x)))
        return logits


def digits_net(num_classes: int = 10, weights: str | Path | None = None) -> DigitsNet:
    """The network of the embedded example; with ``weights`` (a file) loaded and in evaluation mode."""
    model = DigitsNet(num_classes)
    return model if weights is None else load_weights(model, weights)
