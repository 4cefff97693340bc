"""What repairs made of a graph, taken off it and put back on another capture of the same model, bit for bit.

A repaired graph differs from a captured one in few things: the float weights (equalization, SmoothQuant), the schemes
of its sites (granularity), biases that were added, the grids, the learned integers, and the corrected biases. All of
them are here, so that no repair needs a way of its own to be kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, cast

import torch
from numpy.typing import NDArray
from torch import Tensor

from bitwright.errors import InvalidInput, PolicyMismatch, first_line
from bitwright.graph.calibration import calibrate
from bitwright.graph.capture import digest_with
from bitwright.graph.graph import Graph
from bitwright.graph.layers import layers_of
from bitwright.graph.places import SITES
from bitwright.repair.descriptor import REPAIRS
from bitwright.repair.intact import About, check_array, check_sites, damaged
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
        scheme, width = quantizer.site.scheme, policy[name]
        sites[name] = {"granularity": [scheme.granularity, scheme.axis, scheme.group_size]}
        for key, value in quantizer.state(() if width is None else (width,)).items():
            if isinstance(value, Tensor):
                arrays[f"{key}/{name}"] = _array(value)
            else:
                sites[name][key] = value
    biases = graph.biases()
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
    about, arrays = About.from_dict(fitted.about, "what was fitted for the recipe"), fitted.arrays
    real = next((_kind(p) for p in graph.module.parameters() if p.is_floating_point()), "float32")
    check_sites(graph.sites, about, arrays, real)
    _add_biases(graph, about.added)
    for name, tensor in _weights(graph).items():
        if f"weight/{name}" in arrays:
            check_array(f"weight/{name}", arrays[f"weight/{name}"], tuple(tensor.shape), (_kind(tensor),))
            with torch.no_grad():
                tensor.copy_(torch.from_numpy(arrays[f"weight/{name}"]))
    if _digest(graph) != about.weights:
        raise PolicyMismatch(
            "the float weights of this graph are not those that the recipe was fitted to; capture the model again, "
            "and apply the recipe before anything else"
        )
    for name, site in about.sites.items():
        _set_scheme(graph, name, *site["granularity"])
    if batches is not None:
        calibrate(graph, batches, ranges=ranges)
    elif fitted.rescales:
        _forget_seen(graph)  # it belongs to other weights
    graph.forget_fitted()
    for name, site in about.sites.items():
        try:
            graph.quantizers[name].load({**site, **_arrays_of(arrays, name)})
        except (ArithmeticError, LookupError, TypeError, ValueError, RuntimeError) as error:  # of any quantizer
            raise damaged(f"site '{name}' cannot take them: {first_line(error)}") from None
    outputs = {id(layer.bias): layer.outputs for layer in layers_of(graph)}
    for label, bias in graph.biases().items():
        for key, values in _arrays_of(arrays, label).items():
            what, _, width = key.partition("/")
            if what == "bias" and width.isdecimal():
                if id(bias) in outputs:
                    check_array(f"{key}/{label}", values.numpy(), (outputs[id(bias)],), (real,))
                bias.correct(int(width), values)
    graph.repairs = []
    for name in about.repairs:
        graph.note_repair(name, REPAIRS[name].lasting)
    graph.apply(graph.policy)


def _kind(tensor: Tensor) -> str:
    """The type that :func:`_array` gives, e.g. ``"float32"``."""
    return str(_array(tensor[:0] if tensor.ndim else tensor).dtype)


def _set_scheme(graph: Graph, name: str, granularity: str, axis: int | None, group_size: int | None) -> None:
    scheme = graph.sites[name].scheme
    wanted = replace(scheme, granularity=cast(Granularity, granularity), axis=axis, group_size=group_size)
    if wanted != scheme:
        graph.set_scheme(name, wanted)


def _add_biases(graph: Graph, added: Mapping[str, int]) -> None:
    """Give biases to the layers at these places, each under the label that it had."""
    for label, place in added.items():
        layers = layers_of(graph)
        if zeros_of(graph, label) is None and 0 <= place < len(layers):
            ensure_biases(graph, [layers[place]])
        if zeros_of(graph, label) is None:
            raise InvalidInput(f"the graph cannot be given the bias {label} of the recipe; capture the model again")


def _forget_seen(graph: Graph) -> None:
    for quantizer in graph.quantizers.values():
        quantizer.observe(None)


def _weights(graph: Graph) -> dict[str, Tensor]:
    """Float weights and biases, and buffers, by name; what quantizers learn is in their own state."""
    found = [*graph.module.named_parameters(), *graph.module.named_buffers()]
    return {name: tensor for name, tensor in found if not name.startswith(f"{SITES}.")}


def _digest(graph: Graph) -> str:
    return digest_with(hashlib.sha256(), _weights(graph))


def _arrays_of(arrays: Mapping[str, NDArray[Any]], name: str) -> dict[str, Tensor]:
    """The arrays of a site or a bias, by what stands before its name in their keys: ``scale/4``."""
    found = {}
    for key, array in arrays.items():
        what = key.removesuffix(f"/{name}")
        if what not in (key, "weight") and what.count("/") <= 1:  # else the name is the end of a longer one
            found[what] = torch.from_numpy(array)
    return found


def _array(tensor: Tensor) -> NDArray[Any]:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.dtype == torch.bfloat16 else tensor).contiguous().numpy().copy()
