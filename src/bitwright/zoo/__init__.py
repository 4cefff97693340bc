"""The networks and the data of the papers, and the embedded example.

Networks are functions that return a ``torch.nn.Module``; with ``weights=FILE`` it is trained and in evaluation
mode. Data is named by a spec such as ``"cifar10:DIR"``; see `bitwright.zoo.data`.

>>> from bitwright.zoo import load_data, resnet20
>>> sum(parameter.numel() for parameter in resnet20().parameters())
269722
>>> len(load_data("digits?limit=100").calibration)
100
"""

from __future__ import annotations

from bitwright.zoo.adopt import as_data, as_dataset
from bitwright.zoo.array_dataset import ArrayDataset, Preparation
from bitwright.zoo.canvas import Canvases, digits_on_canvas
from bitwright.zoo.data import load_data
from bitwright.zoo.dataset import Batches, Dataset, DataSets
from bitwright.zoo.detector import GridDetector, decode, grid_detector
from bitwright.zoo.digits_net import DigitsNet, digits_net
from bitwright.zoo.example import train_digits_network
from bitwright.zoo.lenet import LeNet1, LeNet5, lenet1, lenet5
from bitwright.zoo.mobilenet import MobileNetV2, mobilenet_v2
from bitwright.zoo.nin import NiN, nin
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
from bitwright.zoo.source import DATA, Source
from bitwright.zoo.unet import UNet, unet
from bitwright.zoo.weights import load_weights

__all__ = [
    "DATA",
    "ArrayDataset",
    "Batches",
    "Canvases",
    "CifarResNet",
    "DataSets",
    "Source",
    "Dataset",
    "DigitsNet",
    "GridDetector",
    "LeNet1",
    "LeNet5",
    "MobileNetV2",
    "NiN",
    "Preparation",
    "ResNet",
    "UNet",
    "as_data",
    "as_dataset",
    "decode",
    "digits_net",
    "digits_on_canvas",
    "grid_detector",
    "lenet1",
    "lenet5",
    "load_data",
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
