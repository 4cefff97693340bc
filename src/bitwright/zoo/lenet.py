"""LeNet-1 and LeNet-5 (LeCun et al., "Gradient-based learning applied to document recognition", 1998).

For 28x28 images of one channel. As in most later work, the activations are ReLU, the subsampling is max pooling
without parameters, every feature map sees all maps before it, and the output layer is linear. LeNet-5, which was
made for 32x32 images, pads its input by two pixels on each side.
"""

from __future__ import annotations

from pathlib import Path

from torch import nn

from bitwright.zoo.layers import Layers
from bitwright.zoo.weights import trained


def lenet1(num_classes: int = 10, weights: str | Path | None = None) -> Layers:
    """LeNet-1 for (N, 1, 28, 28) images: convolutions of 4 and 12 maps and a linear layer, 3,246 parameters.

    With ``weights`` (a file) they are loaded and the network is in evaluation mode.
    """
    network = Layers(
        conv1=nn.Conv2d(1, 4, 5),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(4, 12, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        linear=nn.Linear(12 * 4 * 4, num_classes),
    )
    return trained(network, weights)


def lenet5(num_classes: int = 10, weights: str | Path | None = None) -> Layers:
    """LeNet-5 for (N, 1, 28, 28) images: convolutions of 6 and 16 maps, three linear layers, 61,706 parameters.

    With ``weights`` (a file) they are loaded and the network is in evaluation mode.
    """
    network = Layers(
        conv1=nn.Conv2d(1, 6, 5, padding=2),
        relu1=nn.ReLU(),
        pool1=nn.MaxPool2d(2),
        conv2=nn.Conv2d(6, 16, 5),
        relu2=nn.ReLU(),
        pool2=nn.MaxPool2d(2),
        flatten=nn.Flatten(),
        linear1=nn.Linear(16 * 5 * 5, 120),
        relu3=nn.ReLU(),
        linear2=nn.Linear(120, 84),
        relu4=nn.ReLU(),
        linear3=nn.Linear(84, num_classes),
    )
    return trained(network, weights)
