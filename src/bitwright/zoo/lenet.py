"""LeNet-1 and LeNet-5 (LeCun et al., "Gradient-based learning applied to document recognition", 1998).

For 28x28 images of one channel. As in most later work, the activations are ReLU, the subsampling is max pooling
without parameters, every feature map sees all maps before it, and the output layer is linear. LeNet-5, which was
made for 32x32 images, pads its input by two pixels on each side.
"""

from __future__ import annotations

from pathlib import Path

from torch import Tensor, nn

from bitwright.zoo.weights import load_weights

__all__ = ["LeNet1", "LeNet5", "lenet1", "lenet5"]


class LeNet1(nn.Module):
    """Two convolutions of 4 and 12 maps and one linear layer, for (N, 1, 28, 28) images."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 4, 5)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(4, 12, 5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.linear = nn.Linear(12 * 4 * 4, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.pool2(self.relu2(self.conv2(x)))
        logits: Tensor = self.linear(self.flatten(x))
        return logits


class LeNet5(nn.Module):
    """Two convolutions of 6 and 16 maps and three linear layers, for (N, 1, 28, 28) images."""

    def __init__(self, num_classes: int = 10) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5, padding=2)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.linear1 = nn.Linear(16 * 5 * 5, 120)
        self.relu3 = nn.ReLU()
        self.linear2 = nn.Linear(120, 84)
        self.relu4 = nn.ReLU()
        self.linear3 = nn.Linear(84, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits, (N, num_classes)."""
        x = self.pool1(self.relu1(self.conv1(x)))
        x = self.flatten(self.pool2(self.relu2(self.conv2(x))))
        logits: Tensor = self.linear3(self.relu4(self.linear2(self.relu3(self.linear1(x)))))
        return logits


def lenet1(num_classes: int = 10, weights: str | Path | None = None) -> LeNet1:
    """LeNet-1, 3,246 parameters; with ``weights`` (a file) loaded and in evaluation mode."""
    model = LeNet1(num_classes)
    return model if weights is None else load_weights(model, weights)


def lenet5(num_classes: int = 10, weights: str | Path | None = None) -> LeNet5:
    """LeNet-5, 61,706 parameters; with ``weights`` (a file) loaded and in evaluation mode."""
    model = LeNet5(num_classes)
    return model if weights is None else load_weights(model, weights)
