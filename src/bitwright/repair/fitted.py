"""What repairs made of a graph, taken off it and put back on another capture of the same model, bit for bit.

A repaired graph differs from a captured one in few things: the float weights (equalization, SmoothQuant), the schemes
of its sites (granularity), biases that were added, the grids, the learned integers, and the corrected biases. All of
them are here, so that no repair needs a way of its own to be kept.
"""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bitwright.errors import InvalidInput, PolicyMismatch
from bitwright.graph.calibration import calibrate
from bitwright.graph.graph import Graph
from bitwright.graph.layers import layers_of
from bitwright.numerics.affine import Affine
from bitwright.quantizers.bias import BiasQuantizer
from bitwright.quantizers.uniform import ActivationQuantizer, UniformQuantizer, WeightQuantizer
from bitwright.repair.descriptor import REPAIRS
from bitwright.repair.missing import ensure_biases, zeros_of
from bitwright.values import Policy
from bitwright.values.fitted import Fitted
from bitwright.values.site import Granularity


def take_fitted(graph: Graph, policy: Policy, recipe: str) -> Fitted:
    """What a graph has become: everything that decides its outputs under a policy, and in float.

    Args:
        graph: calibrated and repaired; not changed.
        policy: the widths whose grids are kept; grids and roundings that repairs fixed are kept at every width.
        recipe: digest of the recipe that made it.

    Raises:
        InvalidInput: an activation of the policy has no range.
    """
    arrays: dict[str, NDArray[Any]] = {}
    sites: dict[str, Any] = {}
    for name, quantizer in graph.quantizers.items():
        if not isinstance(quantizer, UniformQuantizer):
            continue
        scheme = quantizer.site.scheme
        sites[name] = {
            "ranges": quantizer.ranges,
            "percentile": quantizer.percentile,
            "granularity": [scheme.granularity, scheme.axis, scheme.group_size],
        }
        width = policy[name]
        for bits in sorted({*quantizer.fixed, *(() if width is None else (width,))}):
            affine, integers = quantizer.own_grid(bits), quantizer.fixed_integers(bits)
            arrays[f"scale/{bits}/{name}"] = _array(affine.scale)
            arrays[f"zero/{bits}/{name}"] = _array(affine.zero_point)
            arrays[f"grid/{bits}/{name}"] = np.array([affine.low, affine.high, affine.group_size or 0], np.int32)
            if integers is not None:
                arrays[f"integers/{bits}/{name}"] = _array(integers)
    biases = _biases(graph)
    for label, bias in biases.items():
        for bits, values in bias.corrections.items():
            arrays[f"bias/{bits}/{label}"] = _array(values)
    if any("scales" in REPAIRS[name].moves for name in graph.repairs):
        for name, tensor in _weights(graph).items():
            arrays[f"weight/{name}"] = _array(tensor)
    places = [layer.bias for layer in layers_of(graph)]
    added = {label: places.index(bias) for label, bias in biases.items() if zeros_of(graph, label) is not None}
    about = {"repairs": list(graph.repairs), "weights": _digest(graph), "sites": sites, "added biases": added}
    return Fitted(graph.graph_hash, recipe, about, arrays)


def put_fitted(graph: Graph, fitted: Fitted, batches: Any = None, ranges: str = "mse") -> None:
    """Make a captured graph what another capture of the same model had become.

    Args:
        graph: as captured.
        fitted: from :func:`take_fitted`.
        batches: calibration data, only to watch ranges for widths that ``fitted`` has no grids for, and for further
            repairs; None to do without.
        ranges: how those ranges are set where ``fitted`` says nothing.

    Raises:
        PolicyMismatch: it belongs to another model, or to other weights.
    """
    if fitted.graph != graph.graph_hash:
        raise PolicyMismatch(
            f"the recipe was fitted to graph {fitted.graph}, this graph is {graph.graph_hash}; take the model, weights "
            "and placement that it was made for, or leave out its fitted values to fit it again"
        )
    about, arrays = fitted.about, fitted.arrays
    _add_biases(graph, about["added biases"])
    for name, tensor in _weights(graph).items():
        if f"weight/{name}" in arrays:
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(arrays[f"weight/{name}"]))
    if _digest(graph) != about["weights"]:
        raise PolicyMismatch(
            "the float weights of this graph are not those that the recipe was fitted to; capture the model again, "
            "and apply the recipe before anything else"
        )
    for name, site in about["sites"].items():
        _set_scheme(graph, name, *site["granularity"])
    if batches is not None:
        calibrate(graph, batches, ranges=ranges)
    elif any(name.startswith("weight/") for name in arrays):
        _forget_seen(graph)  # it belongs to other weights
    graph.forget_fitted()
    for name, site in about["sites"].items():
        quantizer = graph.quantizers[name]
        assert isinstance(quantizer, UniformQuantizer)
        quantizer.set_ranges(site["ranges"], site["percentile"])
    for key in arrays:
        what, _, rest = key.partition("/")
        width, _, name = rest.partition("/")
        if what == "scale":
            _set_grid(graph, arrays, int(width), name)
        elif what == "bias":
            _biases(graph)[name].correct(int(width), torch.from_numpy(arrays[key]))
    graph.repairs = []
    for name in about["repairs"]:
        graph.note_repair(name, REPAIRS[name].lasting)
    graph.apply(graph.policy)


def _set_grid(graph: Graph, arrays: Any, bits: int, name: str) -> None:
    scale, zero, grid = (arrays[f"{part}/{bits}/{name}"] for part in ("scale", "zero", "grid"))
    low, high, group = (int(value) for value in grid)
    affine = Affine(torch.from_numpy(scale), torch.from_numpy(zero), low, high, group or None)
    quantizer, integers = graph.quantizers[name], arrays.get(f"integers/{bits}/{name}")
    assert isinstance(quantizer, UniformQuantizer)
    if integers is not None and isinstance(quantizer, WeightQuantizer):
        quantizer.fix_rounding(bits, affine, torch.from_numpy(integers))
    else:
        quantizer.fix(bits, affine)


def _set_scheme(graph: Graph, name: str, granularity: str, axis: int | None, group_size: int | None) -> None:
    quantizer = graph.quantizers[name]
    scheme = quantizer.site.scheme
    wanted = replace(scheme, granularity=cast(Granularity, granularity), axis=axis, group_size=group_size)
    if wanted != scheme:
        quantizer.site = replace(quantizer.site, scheme=wanted)
        graph.sites = graph.sites.with_scheme(name, wanted)


def _add_biases(graph: Graph, added: Any) -> None:
    """Give biases to the layers at these places, each under the label that it had."""
    for label, place in added.items():
        if zeros_of(graph, label) is None:
            ensure_biases(graph, [layers_of(graph)[place]])
        if zeros_of(graph, label) is None:
            raise InvalidInput(f"the graph cannot be given the bias {label} of the recipe; capture the model again")


def _forget_seen(graph: Graph) -> None:
    for quantizer in graph.quantizers.values():
        if isinstance(quantizer, ActivationQuantizer):
            quantizer.observed = None
        elif isinstance(quantizer, WeightQuantizer):
            quantizer.observe(None)


def _biases(graph: Graph) -> dict[str, BiasQuantizer]:
    """Label -> what rounds the bias, in the order in which they were made."""
    found = graph.module.get_submodule("biases").named_children()
    return {label: module for label, module in found if isinstance(module, BiasQuantizer)}


def _weights(graph: Graph) -> dict[str, Tensor]:
    """Float weights and biases, and buffers, by name."""
    return dict([*graph.module.named_parameters(), *graph.module.named_buffers()])


def _digest(graph: Graph) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(_weights(graph).items()):
        digest.update(f"{name}{tuple(tensor.shape)}{tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy().copy()
