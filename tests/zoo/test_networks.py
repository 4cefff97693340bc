"""Parameter counts against the published ones, shapes, names, and that each network can be captured."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch import nn

from bitwright import zoo
from bitwright.errors import InvalidInput


def parameters(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize(
    ("factory", "published"),
    [
        (zoo.resnet20, 0.27),  # He et al. 2016, table 6
        (zoo.resnet32, 0.46),
        (zoo.resnet44, 0.66),
        (zoo.resnet56, 0.85),
        (zoo.nin, 0.97),  # He et al. 2016 and Lin et al. 2014 compare it as 0.97 M
    ],
)
def test_parameters_as_published_in_millions(factory, published):
    assert round(parameters(factory()) / 1e6, 2) == published


@pytest.mark.parametrize(
    ("model", "published"),
    [
        (lambda: zoo.resnet18(), 11_689_512),  # the exact counts published with the usual weights
        (lambda: zoo.resnet50(), 25_557_032),
        (lambda: zoo.mobilenet_v2(num_classes=1000), 3_504_872),
        (lambda: zoo.mobilenet_v2(num_classes=1000, width_mult=0.5), 1_968_680),
        (lambda: zoo.lenet5(), 61_706),
        # 4 maps of 5x5 + bias, 12 maps of 4x5x5 + bias, 192 inputs to 10 outputs + bias
        (lambda: zoo.lenet1(), 4 * 26 + 12 * 101 + 10 * 193),
    ],
)
def test_parameters_exactly(model, published):
    assert parameters(model()) == published


@pytest.mark.parametrize(
    ("model", "shape", "expected"),
    [
        (lambda: zoo.resnet20(num_classes=7), (3, 32, 32), (7,)),
        (lambda: zoo.mobilenet_v2(num_classes=5, width_mult=0.25), (3, 32, 32), (5,)),
        (lambda: zoo.lenet1(), (1, 28, 28), (10,)),
        (lambda: zoo.lenet5(), (1, 28, 28), (10,)),
        (lambda: zoo.nin(num_classes=4), (3, 32, 32), (4,)),
        (lambda: zoo.unet(num_classes=3, width=4), (3, 24, 40), (3, 24, 40)),
        (lambda: zoo.unet(in_channels=1, width=4, depth=1), (1, 6, 10), (2, 6, 10)),
        (lambda: zoo.resnet18(num_classes=6), (3, 64, 64), (6,)),
        (lambda: zoo.resnet50(num_classes=6), (3, 64, 64), (6,)),
        (lambda: zoo.digits_net(), (1, 8, 8), (10,)),
    ],
)
def test_output_shape_and_batch_independence(model, shape, expected):
    network = model().eval()
    x = torch.randn(3, *shape)
    with torch.no_grad():
        out = network(x)
        alone = network(x[1:2])
    assert out.shape == (3, *expected)
    torch.testing.assert_close(out[1:2], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("factory", [zoo.mobilenet_v2, zoo.unet, zoo.nin, zoo.digits_net, zoo.lenet5])
def test_a_network_is_captured_with_a_free_batch_size(factory):
    network = factory().eval()
    shape = {"lenet5": (1, 28, 28), "digits_net": (1, 8, 8)}.get(factory.__name__, (3, 32, 32))
    batch = {0: torch.export.Dim("batch", min=2)}
    program = torch.export.export(network, (torch.randn(2, *shape),), dynamic_shapes=(batch,))
    x = torch.randn(5, *shape)
    with torch.no_grad():
        torch.testing.assert_close(program.module()(x), network(x))


def test_mobilenet_keeps_a_4x4_map_and_the_depthwise_groups():
    network = zoo.mobilenet_v2().eval()
    with torch.no_grad():
        features = network.blocks(network.stem(torch.randn(1, 3, 32, 32)))
    assert features.shape == (1, 320, 4, 4)
    assert all(block.depthwise.conv.groups == block.depthwise.conv.in_channels for block in network.blocks)


def test_padded_shortcut_puts_zeros_on_both_sides():
    block = zoo.resnet20().layer2[0]
    x = torch.arange(2 * 16 * 4 * 4, dtype=torch.float32).reshape(2, 16, 4, 4) + 1
    out = block.shortcut(x)
    assert out.shape == (2, 32, 2, 2)
    assert not out[:, :8].any()
    assert not out[:, 24:].any()
    torch.testing.assert_close(out[:, 8:24], x[:, :, ::2, ::2])


@pytest.mark.parametrize(
    ("block", "last_norm", "after"),
    [
        (lambda: zoo.resnet20().layer1[1], "bn2", torch.relu),
        (lambda: zoo.digits_net().layer1, "bn2", torch.relu),
        (lambda: zoo.resnet18().layer1[1], "bn2", torch.relu),
        (lambda: zoo.resnet50().layer1[1], "bn3", torch.relu),
        (lambda: zoo.mobilenet_v2().blocks[2], "project.bn", lambda x: x),
    ],
)
def test_a_residual_block_whose_branch_is_zero_passes_its_input_on(block, last_norm, after):
    block = block().eval()
    channels = next(block.parameters()).shape[1]
    x = torch.randn(2, channels, 4, 4)
    with torch.no_grad():
        assert not torch.allclose(block(x), after(x))
        block.get_submodule(last_norm).weight.zero_()
        torch.testing.assert_close(block(x), after(x))


def test_unet_uses_its_skip_connections():
    network = zoo.unet(width=4, depth=2).eval()
    x = torch.randn(1, 3, 8, 8)
    with torch.no_grad():
        for block in network.up:
            block.up.weight.zero_()
        assert not torch.allclose(network(x), network(2 * x))
        # without the deep path, a pixel sees only its neighbourhood: 4 convolutions of 3x3
        moved = x.clone()
        moved[..., 0] += 1
        assert torch.equal(network(x)[..., 5:], network(moved)[..., 5:])


def test_names_of_the_state_dict():
    cifar = set(zoo.resnet20().state_dict())
    assert {"conv1.weight", "bn1.running_var", "layer3.2.conv2.weight", "layer2.0.bn2.bias", "linear.bias"} <= cifar
    large = set(zoo.resnet50().state_dict())
    assert {"layer1.0.downsample.0.weight", "layer4.2.bn3.running_mean", "fc.weight", "conv1.weight"} <= large
    assert len(large) == 320  # as torchvision's


@pytest.mark.parametrize("factory", [zoo.resnet20, zoo.resnet50, zoo.mobilenet_v2, zoo.unet])
def test_every_activation_is_a_module_of_its_own(factory):
    network = factory().eval()
    calls: Counter[str] = Counter()
    for name, module in network.named_modules():
        if isinstance(module, nn.ReLU | nn.ReLU6 | nn.MaxPool2d):
            module.register_forward_hook(lambda *_, name=name: calls.update([name]))
    with torch.no_grad():
        network(torch.randn(1, 3, 32, 32))
    assert set(calls.values()) == {1}


def test_bad_parameters():
    with pytest.raises(InvalidInput, match=r"width_mult must be above 0, got 0"):
        zoo.mobilenet_v2(width_mult=0)
    with pytest.raises(InvalidInput, match=r"width and depth must be at least 1, got width=16, depth=0"):
        zoo.unet(depth=0)
