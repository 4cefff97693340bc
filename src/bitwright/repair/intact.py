"""What was fitted for a recipe, checked against the graph before any of it is used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitwright.errors import InvalidInput, first_line
from bitwright.values.json import Value
from bitwright.values.policy import MAX_BITS, MIN_BITS
from bitwright.values.site import Granularity, Site, Sites

Arrays = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Placed(Value):
    """Where the steps of a site lie."""

    granularity: Granularity
    axis: int | None
    group_size: int | None


@dataclass(frozen=True)
class About(Value):
    """What a :class:`~bitwright.values.fitted.Fitted` holds beside its arrays.

    Attributes:
        repairs: names of the repairs that were applied.
        weights: digest of the float weights.
        sites: site -> its granularity, axis and group size in a list, and what its quantizer keeps beside arrays.
        added: label of a bias that was added -> which layer it belongs to.
    """

    repairs: tuple[str, ...]
    weights: str
    sites: Mapping[str, Mapping[str, Any]]
    added: Mapping[str, int]

    @classmethod
    def _read(cls, data: dict[str, Any]) -> dict[str, Any]:
        return {"added" if key == "added biases" else key: value for key, value in data.items()}


def damaged(fault: str) -> InvalidInput:
    """The error for fitted values that no graph of this kind can have."""
    return InvalidInput(
        f"what was fitted for the recipe cannot be used: {fault}; put the right file back, or delete it to have the "
        "recipe fitted again"
    )


def check_sites(sites: Sites, about: About, arrays: Arrays, real: str) -> None:
    """Every grid has finite, positive steps of the right shape, and whole zero points and integers that lie on it.

    Args:
        sites: of the graph.
        about: what is kept beside the arrays.
        arrays: name -> array.
        real: the type of the graph's steps, e.g. ``"float32"``.

    Raises:
        InvalidInput: something is not so; names the array.
    """
    for name, kept in about.sites.items():
        if name not in sites:
            raise damaged(f"it has the site '{name}', which this graph does not have")
        parts = kept.get("granularity")
        if not isinstance(parts, (list, tuple)) or len(parts) != 3:
            raise damaged(f"'granularity' of site '{name}' must be a list of three, got {parts!r}")
        placed = Placed.from_dict(
            dict(zip(("granularity", "axis", "group_size"), parts, strict=True)), f"site '{name}'"
        )
        try:
            scheme = replace(sites[name].scheme, **vars(placed))
            site = replace(sites[name], scheme=scheme)
        except InvalidInput as error:
            raise damaged(first_line(error)) from None
        for key in arrays:
            what, slash, width = key.removesuffix(f"/{name}").partition("/")
            if slash and what == "scale" and "/" not in width and key.endswith(f"/{name}"):
                _check_grid(site, width, arrays, real)


def check_array(name: str, array: NDArray[Any], shape: Sequence[int], kinds: Sequence[str]) -> None:
    """Raise :class:`InvalidInput` unless an array has this shape and one of these types, e.g. ``"float32"``."""
    if array.dtype.name not in kinds:
        raise damaged(f"'{name}' must hold {' or '.join(kinds)}, got {array.dtype}")
    if array.shape != tuple(shape):
        raise damaged(f"'{name}' must have shape {tuple(shape)}, got {array.shape}")


def _check_grid(site: Site, width: str, arrays: Arrays, real: str) -> None:
    names = {what: f"{what}/{width}/{site.name}" for what in ("scale", "zero", "grid", "integers")}
    missing = next((name for what, name in names.items() if what != "integers" and name not in arrays), None)
    if missing is not None:
        raise damaged(f"'{missing}' is missing")
    if not width.isdecimal() or not MIN_BITS <= int(width) <= MAX_BITS:
        raise damaged(f"'{names['scale']}' must be of {MIN_BITS} to {MAX_BITS} bits")
    scale, zero, grid = (arrays[names[what]] for what in ("scale", "zero", "grid"))
    if grid.shape != (3,) or grid.dtype.kind not in "iu":
        raise damaged(f"'{names['grid']}' must hold three whole numbers")
    low, high, group = (int(number) for number in grid)
    # Repairs may leave integers out, at either end, and zero can lie on an unsigned grid or on a signed one.
    if not (-(1 << int(width)) < low < high < 1 << int(width) and high - low < 1 << int(width)):
        raise damaged(f"'{names['grid']}' must be a range of {width}-bit integers, got {low} to {high}")
    if group != (site.scheme.group_size or 0) and site.scheme.granularity == "group":
        raise damaged(f"'{names['grid']}' must have groups of {site.scheme.group_size}, got {group}")
    check_array(names["zero"], zero, scale.shape, (real,))
    check_array(names["scale"], scale, scale.shape, (real,))
    if scale.size == 0 or not (scale > 0).all():
        raise damaged(f"'{names['scale']}' must be greater than 0 everywhere")
    if not (np.round(zero) == zero).all() or zero.min() < low or zero.max() > high:
        raise damaged(f"'{names['zero']}' must hold whole numbers from {low} to {high}")
    if scale.size not in (1, site.scales):
        raise damaged(f"'{names['scale']}' must hold {site.scales} steps, got {scale.size}")
    if scale.size > 1 and not _fits(scale.shape, site):
        raise damaged(f"'{names['scale']}' cannot have shape {scale.shape} at a tensor of shape {site.shape}")
    integers = arrays.get(names["integers"])
    if integers is not None:
        check_array(names["integers"], integers, site.shape, ("int8", "int16"))
        if integers.min(initial=low) < low or integers.max(initial=high) > high:
            raise damaged(f"'{names['integers']}' must hold whole numbers from {low} to {high}")


def _fits(shape: tuple[int, ...], site: Site) -> bool:
    """Whether steps of this shape lie along the channels, or in groups along the rest."""
    scheme, axis = site.scheme, site.scheme.axis or 0
    if scheme.granularity == "group":
        groups = math.ceil(site.numel / site.shape[axis] / (scheme.group_size or site.numel))
        return shape == (site.shape[axis], groups, 1)
    wanted = [1] * len(site.shape)
    wanted[axis] = site.shape[axis]
    return shape in (tuple(wanted), (site.shape[axis],))
