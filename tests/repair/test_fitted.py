from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidInput, PolicyMismatch
from bitwright.repair import put_fitted, take_fitted
from bitwright.values.fitted import Fitted

REPAIRS = {
    "rounding": (("adaround", {"iterations": 10}),),
    "equalized": (("cle", {}), ("bias", {}), ("blocks", {"iterations": 5})),
    "grouped": (
        ("granularity", {"granularity": "group", "group_size": 4}),
        ("clip", {}),
        ("adaround", {"iterations": 5}),
    ),
    "sequential": (("gptq", {}),),
    "ranges": (("ranges", {"weights": "output", "activations": "percentile"}), ("bias", {"method": "analytic"})),
}


class Biasless(nn.Module):
    """Layers without biases, and an addition: repairs give them biases, and steps around sums are adjusted."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.head = nn.Linear(6, 4)

    def forward(self, x):
        x = torch.relu(self.stem(x))
        return self.head(torch.relu(self.conv(x) + x).mean((2, 3)))


@pytest.fixture
def biasless():
    torch.manual_seed(5)
    return Biasless().eval()


def _mended(graph, images, repairs):
    policy = bw.Policy.uniform(graph.sites, 4, 5)
    graph.apply(policy)
    for name, options in repairs:
        bw.repair(graph, name, [(images, None)], **options)
    return policy


@pytest.mark.parametrize("repairs", REPAIRS.values(), ids=REPAIRS)
@pytest.mark.parametrize("network", ["residual", "biasless"])
def test_the_same_bits_without_data(request, network, repairs, calibrated, images, fresh_images):
    model = request.getfixturevalue(network)
    graph = calibrated(model, images)
    policy = _mended(graph, images, repairs)
    fitted = Fitted.from_bytes(take_fitted(graph, policy, "r").to_bytes())
    for batches in (None, [(images, None)]):
        fresh = bw.capture(model, images[:2])
        put_fitted(fresh, fitted, batches)
        for setting in (policy, bw.FLOAT):
            with graph.applied(setting), fresh.applied(setting), torch.no_grad():
                assert torch.equal(graph(fresh_images), fresh(fresh_images))
        assert fresh.repairs == graph.repairs
        assert fresh.sites == graph.sites
        assert take_fitted(fresh, policy, "r").checksum == fitted.checksum
        wider = bw.Policy.uniform(graph.sites, 6, 6)
        if batches is None:
            with pytest.raises(InvalidInput, match="has a range at 5 bits only, .*got 6; pass batches"):
                fresh.apply(wider)
        else:
            fresh.apply(wider)


def test_repairs_go_on_from_it(residual, calibrated, images, fresh_images):
    graph = calibrated(residual, images)
    policy = _mended(graph, images, REPAIRS["rounding"])
    fresh = bw.capture(residual, images[:2])
    put_fitted(fresh, take_fitted(graph, policy, "r"), [(images, None)])
    fresh.apply(policy)
    for each in (graph, fresh):
        bw.repair(each, "clip", [(images, None)])
        bw.repair(each, "bias", [(images, None)])
    with torch.no_grad():
        assert torch.equal(graph(fresh_images), fresh(fresh_images))
    with pytest.raises(InvalidInput, match="'cle' cannot follow"):
        bw.repair(fresh, "cle", [(images, None)])


def test_integers_are_small_and_only_where_they_were_learned(residual, calibrated, images):
    graph = calibrated(residual, images)
    arrays = take_fitted(graph, _mended(graph, images, REPAIRS["rounding"]), "r").arrays
    integers = {name: array for name, array in arrays.items() if name.startswith("integers/")}
    assert integers
    assert {array.dtype for array in integers.values()} == {np.dtype(np.int8)}
    assert not any(name.startswith("weight/") for name in arrays)
    plain = calibrated(residual, images)
    kinds = {name.partition("/")[0] for name in take_fitted(plain, _mended(plain, images, ()), "r").arrays}
    assert kinds == {"scale", "zero", "grid"}


def test_what_was_seen_of_other_weights_is_not_used(residual, calibrated, images):
    graph = calibrated(residual, images)
    fitted = take_fitted(graph, _mended(graph, images, (("cle", {}),)), "r")
    other = calibrated(residual, images)
    put_fitted(other, fitted)
    with pytest.raises(InvalidInput, match="the clipping search needs what calibration saw at site"):
        bw.repair(other, "clip", [(images, None)], policy=bw.Policy.uniform(other.sites, 4, 5))
    with pytest.raises(InvalidInput, match="has a range at 5 bits only"):
        other.apply(bw.Policy.uniform(other.sites, 8, 8))


def test_another_model_or_other_weights_are_one_line(residual, biasless, calibrated, images):
    graph = calibrated(residual, images)
    fitted = take_fitted(graph, _mended(graph, images, REPAIRS["rounding"]), "r")
    with pytest.raises(PolicyMismatch, match="was fitted to graph .*, this graph is .*; take the model, weights"):
        put_fitted(bw.capture(biasless, images[:2]), fitted)
    trained = bw.capture(residual, images[:2])
    with torch.no_grad():
        trained.weight("conv1.weight").mul_(1.5)
    with pytest.raises(PolicyMismatch, match="float weights of this graph are not those that the recipe was fitted to"):
        put_fitted(trained, fitted)
