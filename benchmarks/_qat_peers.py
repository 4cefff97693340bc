"""Other libraries' quantization-aware training, as their documentation has it, for the networks of `qat.py`.

Each function returns a network that its library trains: ready for a training step in train mode, with its quantizers
started on some images. torchao's takes the sites that Bitwright's placement "layers" has; Brevitas quantizes the
weights and what each convolution and linear layer reads, which are the same tensors.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


def torchao(model: nn.Module, weights: int, activations: int, edges: int, images: list[Tensor]) -> nn.Module:
    """PT2E: `prepare_qat_pt2e` with X86InductorQuantizer, whose ranges are moving averages of minima and maxima."""
    from torchao.quantization.pt2e.quantize_pt2e import prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    def config(weights: int, activations: int) -> Any:
        made = get_default_x86_inductor_quantization_config(is_qat=True)

        activation = dataclasses.replace(made.input_activation, quant_max=2**activations - 1)
        half = 2 ** (weights - 1)
        weight = dataclasses.replace(made.weight, quant_min=-half, quant_max=half - 1)
        return dataclasses.replace(made, input_activation=activation, output_activation=activation, weight=weight)

    quantizer = X86InductorQuantizer().set_global(config(weights, activations))
    for name in ("conv1", "linear"):
        quantizer.set_module_name_qconfig(name, config(edges, edges))
    batch = torch.export.Dim("batch", min=2)
    exported = torch.export.export(copy.deepcopy(model).train(), (images[0],), dynamic_shapes=({0: batch},)).module()
    prepared = prepare_qat_pt2e(exported, quantizer)
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
