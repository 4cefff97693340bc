"""The networks of the papers, and the embedded example.

Networks are functions that return a ``torch.nn.Module``; with ``weights=FILE`` it is trained and in evaluation mode.

>>> from bitwright.zoo import resnet20
>>> sum(parameter.numel() for parameter in resnet20().parameters())
269722
"""

from __future__ import annotations

from bitwright.zoo.detector import GridDetector, decode, grid_detector
from bitwright.zoo.digits_net import DigitsNet, digits_net
from bitwright.zoo.example import train_digits_network
from bitwright.zoo.lenet import lenet1, lenet5
from bitwright.zoo.mobilenet import MobileNetV2, mobilenet_v2
from bitwright.zoo.nin import nin
from bitwright.zoo.resnet import ResNet, resnet18, resnet50
from bitwright.zoo.resnet_cifar import (
    CifarResNet,
    resnet20,
    resnet20_cifar10,
    resnet32,
    resnet44,
    resnet56,
    resnet56_cifar10,
)
from bitwright.zoo.unet import UNet, unet
from bitwright.zoo.weights import load_weights

__all__ = [
    "CifarResNet",
    "DigitsNet",
    "GridDetector",
    "MobileNetV2",
    "ResNet",
    "UNet",
    "decode",
    "digits_net",
    "grid_detector",
    "lenet1",
    "lenet5",
    "load_weights",
    "mobilenet_v2",
    "nin",
    "resnet18",
    "resnet20",
    "resnet20_cifar10",
    "resnet32",
    "resnet44",
    "resnet50",
    "resnet56",
    "resnet56_cifar10",
    "train_digits_network",
    "unet",
]
