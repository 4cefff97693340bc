"""Other libraries' quantization-aware training, as their documentation has it, for the networks of `qat.py`.

Each function returns a network that its library trains: ready for a training step in train mode, with its quantizers
started on some images. They quantize weights and what convolutions and linear layers read, as Bitwright's placement
"layers" does.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def torchao(model: nn.Module, weights: int, activations: int, edges: int, images: list[Tensor]) -> nn.Module:
    """PT2E: `prepare_qat_pt2e`; ranges are moving averages of minima and maxima, as in torchao's own quantizers."""
    from torchao.quantization.pt2e import (
        FusedMovingAvgObsFakeQuantize,
        MovingAverageMinMaxObserver,
        MovingAveragePerChannelMinMaxObserver,
    )
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import QuantizationAnnotation, QuantizationSpec, Quantizer

    layers = {torch.ops.aten.conv2d.default, torch.ops.aten.linear.default}

    def specs(weights: int, activations: int) -> tuple[Any, Any]:
        observed = FusedMovingAvgObsFakeQuantize.with_args(observer=MovingAverageMinMaxObserver)
        channels = FusedMovingAvgObsFakeQuantize.with_args(observer=MovingAveragePerChannelMinMaxObserver)
        half, most = 2 ** (weights - 1), 2**activations - 1
        return (
            QuantizationSpec(torch.uint8, observed, 0, most, torch.per_tensor_affine),
            QuantizationSpec(torch.int8, channels, -half, half - 1, torch.per_channel_symmetric, 0),
        )

    class Layers(Quantizer):  # type: ignore[misc]
        """Weights, and what convolutions and linear layers read; the first and the last at the width of the edges."""

        def annotate(self, model: torch.fx.GraphModule) -> torch.fx.GraphModule:
            found = [node for node in model.graph.nodes if node.target in layers]
            for node in found:
                widths = (edges, edges) if node in (found[0], found[-1]) else (weights, activations)
                read = dict(zip(node.args[:2], specs(*widths), strict=True))
                node.meta["quantization_annotation"] = QuantizationAnnotation(input_qspec_map=read, _annotated=True)
            return model

        def validate(self, model: torch.fx.GraphModule) -> None:
            """Nothing to check."""

    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(copy.deepcopy(model).train(), (images[0],), dynamic_shapes=({0: batch},)).module()
    prepared = prepare_qat_pt2e(exported, Layers())
    mode(prepared, False)
    with torch.no_grad():
        for one in images:
            prepared(one)
    return prepared


def brevitas(model: nn.Module, weights: int, activations: int, edges: int, images: list[Tensor]) -> nn.Module:
    """Layers of `brevitas.nn`: weights scaled by the maximum of each channel, learned scales for activations."""
    import brevitas.nn as qnn
    from brevitas.graph.calibrate import calibration_mode
    from brevitas.quant import Int8ActPerTensorFloat, Int8WeightPerChannelFloat, Uint8ActPerTensorFloat

    made = copy.deepcopy(model)
    for name, layer in list(made.named_modules()):
        if not isinstance(layer, nn.Conv2d | nn.Linear):
            continue
        edge = name in ("conv1", "linear")
        common: dict[str, Any] = {
            "bias": layer.bias is not None,
            "weight_quant": Int8WeightPerChannelFloat,
            "weight_bit_width": edges if edge else weights,
            "input_quant": Int8ActPerTensorFloat if name == "conv1" else Uint8ActPerTensorFloat,
            "input_bit_width": edges if edge else activations,
        }
        if isinstance(layer, nn.Conv2d):
            sizes = layer.in_channels, layer.out_channels, layer.kernel_size
            new = qnn.QuantConv2d(*sizes, stride=layer.stride, padding=layer.padding, **common)
        else:
            new = qnn.QuantLinear(layer.in_features, layer.out_features, **common)
        with torch.no_grad():
            new.weight.copy_(layer.weight)
            if layer.bias is not None:
                new.bias.copy_(layer.bias)
        parent = made.get_submodule(name.rpartition(".")[0])
        setattr(parent, name.rpartition(".")[2], new)
    made.eval()
    with torch.no_grad(), calibration_mode(made):
        for one in images:
            made(one)
    return made


def mode(module: nn.Module, training: bool) -> None:
    """Training or evaluation, for exported programs too."""
    if isinstance(module, torch.fx.GraphModule):
        from torchao.quantization.pt2e import move_exported_model_to_eval, move_exported_model_to_train

        (move_exported_model_to_train if training else move_exported_model_to_eval)(module)
    else:
        module.train(training)


PEERS: dict[str, Callable[..., nn.Module]] = {"torchao": torchao, "brevitas": brevitas}


def train(
    module: nn.Module, epochs: Callable[[int], Iterable[Tensor]], count: int, steps: int, loss: Callable[..., Tensor]
) -> None:
    """SGD with momentum from a rate of 0.01 along a cosine, batch norms live.

    Args:
        module: of a library.
        epochs: number of an epoch -> its images, batch by batch.
        count: of epochs.
        steps: in all.
        loss: (images, outputs) -> what is brought down.
    """
    optimizer = torch.optim.SGD(module.parameters(), 0.01, 0.9)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for number in range(count):
        mode(module, True)
        for images in epochs(number):
            optimizer.zero_grad(set_to_none=True)
            loss(images, module(images)).backward()
            optimizer.step()
            schedule.step()
    mode(module, False)
