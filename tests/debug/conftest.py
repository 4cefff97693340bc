"""Networks with a known fault, made from one that is sound."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bitwright.tasks import Classification


@pytest.fixture(scope="session")
def digits_task(digits_data):
    (x, y), test = digits_data
    return Classification([(x[i : i + 128], y[i : i + 128]) for i in range(0, 384, 128)], [test], title="digits")


@pytest.fixture(scope="session")
def outlier_model(digits_model):
    """One channel more in the first block, with values 3,000 times as large, that nothing reads: float is unchanged."""
    model = copy.deepcopy(digits_model)
    block = model.layer1
    old, after = block.conv1, block.conv2
    torch.manual_seed(0)
    with torch.no_grad():
        block.conv1 = nn.Conv2d(16, 17, 3, padding=1, bias=False)
        block.conv1.weight[:16] = old.weight
        block.conv1.weight[16] = 3000 * old.weight.abs().mean()
        norm, block.bn1 = block.bn1, nn.BatchNorm2d(17).eval()
        for name in ("weight", "bias", "running_mean", "running_var"):
            getattr(block.bn1, name)[:16] = getattr(norm, name)
        block.conv2 = nn.Conv2d(17, 16, 3, padding=1, bias=False)
        block.conv2.weight[:, :16] = after.weight
        block.conv2.weight[:, 16] = 0
    return model.eval()


@pytest.fixture(scope="session")
def unbalanced_model(digits_model):
    """In both blocks one channel is 30 times as large, and read with weights that much smaller: float is unchanged."""
    model = copy.deepcopy(digits_model)
    with torch.no_grad():
        for block, channel in ((model.layer1, 3), (model.layer2, 5)):
            block.bn1.weight[channel] *= 30
            block.bn1.bias[channel] *= 30
            block.conv2.weight[:, channel] /= 30
    return model.eval()
