from __future__ import annotations

import json

import pytest

from bitwright.errors import InvalidInput
from bitwright.values import Operation, Scheme, Site, Sites

WEIGHT = Scheme(True, True, "channel", 0)


def sites():
    return Sites(
        (
            Site("x", "activation", (1, 3, 8, 8)),
            Site("conv.weight", "weight", (4, 3, 3, 3), WEIGHT, "conv", "conv2d"),
            Site("relu", "activation", (1, 4, 6, 6)),
        ),
        (Operation("conv", "conv2d", 3888, "x", "conv.weight"),),
        "0123456789abcdef",
        7,
    )


@pytest.mark.parametrize(
    ("scheme", "bits", "expected"),
    [
        (Scheme(), 8, (0, 255)),
        (Scheme(), 2, (0, 3)),
        (Scheme(), 16, (0, 65535)),
        (WEIGHT, 8, (-128, 127)),
        (WEIGHT, 2, (-2, 1)),
        (Scheme(True, True, narrow=True), 8, (-127, 127)),
        (Scheme(True, True, narrow=True), 2, (-1, 1)),
    ],
)
def test_the_integers_of_a_scheme(scheme, bits, expected):
    assert scheme.integer_range(bits) == expected


@pytest.mark.parametrize(
    ("shape", "scheme", "scales"),
    [
        ((4, 3, 3, 3), WEIGHT, 4),
        ((4, 6, 3), Scheme(True, True, "channel", 1), 6),
        ((4, 3, 3, 3), Scheme(True, True, "tensor"), 1),
        ((4, 3, 3, 3), Scheme(True, True, "group", 0, 9), 12),
        ((4, 3, 3, 3), Scheme(True, True, "group", 0, 8), 16),
        ((4, 3, 3, 3), Scheme(True, True, "group", 0, 100), 4),
    ],
)
def test_the_number_of_scales(shape, scheme, scales):
    site = Site("w", "weight", shape, scheme)
    assert site.scales == scales
    assert site.numel == 4 * (27 if len(shape) == 4 else 18)


def test_sites_by_name_and_position_and_kind():
    found = sites()
    assert found.names == ("x", "conv.weight", "relu")
    assert found["relu"] is found[2] is found[-1]
    assert "relu" in found
    assert "rleu" not in found
    assert [s.name for s in found.weights] == ["conv.weight"]
    assert [s.name for s in found.activations] == ["x", "relu"]
    assert [s.name for s in found] == list(found.names)
    assert len(found) == 3


def test_unknown_and_repeated_names():
    with pytest.raises(
        InvalidInput, match="site 'conv.wieght' is not in this graph of 3 sites; did you mean 'conv.weight'"
    ):
        sites()["conv.wieght"]
    with pytest.raises(InvalidInput, match="site names must be unique, got 'a' twice"):
        Sites((Site("a", "weight", (1,)), Site("b", "weight", (1,)), Site("a", "weight", (1,))))


def test_there_and_back_through_json():
    found = sites()
    again = Sites.from_dict(json.loads(json.dumps(found.to_dict())))
    assert again == found
    assert again["conv.weight"].shape == (4, 3, 3, 3)


def test_a_scheme_can_be_exchanged():
    changed = sites().with_scheme("conv.weight", Scheme(True, True, "tensor"))
    assert changed["conv.weight"].scheme.granularity == "tensor"
    assert changed["relu"] == sites()["relu"]
    assert changed.graph_hash == sites().graph_hash
