"""The one entry, the order of repairs, and reports."""

from __future__ import annotations

import json

import pytest
import torch

import bitwright as bw
from bitwright.errors import InvalidInput
from bitwright.graph.layers import layers_of
from bitwright.repair import REPAIRS, Change, Repair, RepairReport, check_sequence, flow_repairs, repair
from bitwright.repair.blocks import blocks_of
from bitwright.settings import DEFAULTS
from bitwright.values import Policy

OPTIONS = {
    "adaround": {"iterations": 5},
    "blocks": {"iterations": 5},
    "ranges": {"weights": "output"},
}


def applied(graph, name, images):
    return repair(graph, name, [(images, None)], **OPTIONS.get(name, {}))


@pytest.fixture
def graph(residual, images, calibrated):
    graph = calibrated(residual, images)
    return graph.apply(Policy.uniform(graph.sites, 4, 8))


def test_all_repairs_in_their_order_compose(graph, residual, images):
    expected = residual(images).detach()
    before = float((graph(images) - expected).square().mean())
    names = [name for name in REPAIRS if name not in ("blocks", "granularity")]
    for name in names:
        report = applied(graph, name, images)
        assert report.name == name
        assert report.seconds > 0
    assert graph.repairs == names
    assert float((graph(images) - expected).square().mean()) < before
    assert float((graph.apply(bw.FLOAT)(images) - expected).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("first", "second", "reason"),
    [
        ("adaround", "cle", "would undo the rounding that adaround learned"),
        ("blocks", "cle", "would undo the rounding that blocks learned"),
        ("bias", "cle", "would make the bias correction"),
        ("adaround", "ranges", "would undo the rounding"),
        ("adaround", "granularity", "would undo the rounding"),
        ("ranges", "smooth", "would make the ranges"),
        ("bias", "clip", "would make the bias correction"),
    ],
)
def test_orders_that_make_no_sense_are_refused(graph, images, first, second, reason):
    applied(graph, first, images)
    before, done = graph(images), list(graph.repairs)
    with pytest.raises(InvalidInput, match=reason):
        applied(graph, second, images)
    assert torch.equal(graph(images), before)
    assert graph.repairs == done


def test_refusal_says_the_way_out(graph, images):
    applied(graph, "bias", images)
    with pytest.raises(InvalidInput, match="start from a fresh graph and run 'cle' first"):
        applied(graph, "cle", images)


def test_unknown_names_and_options(graph, images):
    with pytest.raises(InvalidInput, match="got 'adaruond'; did you mean 'adaround'"):
        repair(graph, "adaruond", [(images, None)])
    with pytest.raises(InvalidInput, match="repair 'cle' has no option 'absorbe'; did you mean 'absorb'"):
        repair(graph, "cle", absorbe=True)
    with pytest.raises(InvalidInput, match="repair 'blocks' has no option 'unit'"):
        repair(graph, "blocks", [(images, None)], unit="layer")


def test_public_name_is_the_function(graph, images):
    assert bw.repair(graph, "cle", [(images, None)]).name == "cle"


def test_wrong_inputs_are_refused(graph):
    with pytest.raises(InvalidInput, match=r"inputs must have shape \(batch, 3, 6, 6\), got"):
        repair(graph, "bias", [(torch.randn(2, 3, 5, 5), None)])


def test_report_survives_json_and_reads_well():
    changes = (Change("conv1", "mean error", 0.5, 0.25, {"largest": 1.0}), Change("fc", "mean error", 1.5, 0.75))
    report = RepairReport("64 samples", changes, ("a note",), 64, "bias", 1.5, 1.25)
    again = RepairReport.from_dict(json.loads(json.dumps(report.to_dict())))
    assert again == report
    assert str(report) == "bias: mean mean error 1 to 0.5 at 2 places; a note (1.5 s)"
    with pytest.raises(InvalidInput, match="bitwright must be 'repair report', got 'policy'"):
        RepairReport.from_dict({"bitwright": "policy", "version": 1})


def test_changes_in_words():
    changes = (Change("conv1", "error", 0.5, 0.4), Change("conv2", "error", 3.0, 1.0), Change("fc", "steps", 1, 64))
    assert RepairReport("", changes).changed() == (
        "2 places: error from 1.75 to 0.7 on average; most at conv2, from 3 to 1",
        "fc: steps from 1 to 64",
    )
    assert RepairReport("").changed() == ()


def test_a_sequence_is_checked_before_anything_is_done():
    check_sequence(["fold", "cle", "smooth", "granularity", "ranges", "clip", "adaround", "bias"])
    check_sequence(["bias", "adaround"])
    with pytest.raises(InvalidInput, match="repair 'ranges' cannot follow 'blocks': it moves the grids"):
        check_sequence(["cle", "blocks", "ranges"])


_ALL = "rescales weights and activations, which "
_ADAROUND = "would undo the rounding that adaround learned"
_GPTQ = "would undo the rounding that gptq found"
_BIAS = "would make the bias correction, measured on the present weights and grids, wrong"
_RANGES = "would make the ranges, set for the present weights and activations, wrong"
REFUSED = {
    **{
        (name, earlier): _ALL + why
        for name in ("cle", "smooth")
        for earlier, why in (
            ("adaround", _ADAROUND),
            ("gptq", _GPTQ),
            ("bias", _BIAS),
            ("ranges", _RANGES),
            ("clip", _RANGES),
        )
    },
    ("granularity", "adaround"): "moves the grids of weights, which " + _ADAROUND,
    ("granularity", "gptq"): "moves the grids of weights, which " + _GPTQ,
    ("granularity", "bias"): "moves the grids of weights, which " + _BIAS,
    ("put", "adaround"): "moves the grids of weights, which " + _ADAROUND,
    ("put", "gptq"): "moves the grids of weights, which " + _GPTQ,
    ("put", "bias"): "moves the grids, which " + _BIAS,
    ("ranges", "adaround"): "moves the grids of weights, which " + _ADAROUND,
    ("ranges", "gptq"): "moves the grids of weights, which " + _GPTQ,
    ("ranges", "bias"): "moves the grids, which " + _BIAS,
    ("gptq", "adaround"): _ADAROUND,
    ("clip", "bias"): "moves the grids of activations, which " + _BIAS,
}


def test_which_repairs_undo_which_follows_from_what_they_move():
    names = dict.fromkeys(name for pair in REFUSED for name in pair)
    alike = [name for name, about in REPAIRS.items() if about.leaves == "learned rounding" and name != "adaround"]
    found = {(a, b): REPAIRS[a].undoes(REPAIRS[b]) for a in names for b in names}
    assert {pair: why for pair, why in found.items() if why is not None} == REFUSED
    for name in names:
        why = REPAIRS[name].undoes(REPAIRS["adaround"])
        for other in alike:
            assert REPAIRS[name].undoes(REPAIRS[other]) == (why and why.replace("adaround", other))
    assert not any(REPAIRS["qat"].undoes(REPAIRS[name]) for name in REPAIRS)


def test_every_repair_is_described_with_its_options():
    assert list(REPAIRS) == sorted(REPAIRS, key=lambda name: REPAIRS[name].order)
    for side in ("weights", "activations"):
        tried = flow_repairs(side)
        assert {about.name for about in tried} == {name for name, about in REPAIRS.items() if side in about.mends}
        assert [about.fits for about in tried] == sorted(about.fits for about in tried)  # what is fitted comes last
    for about in REPAIRS.values():
        assert about.does.endswith(".")
        assert all((about.needs, about.changes, about.costs))
        assert "graph" not in about.options
    assert REPAIRS["bias"].options == {"policy": None, "method": "empirical", "samples": DEFAULTS.calibration_samples}
    assert REPAIRS["blocks"].options == {k: v for k, v in REPAIRS["adaround"].options.items() if k != "unit"}
    with pytest.raises(InvalidInput, match="repair 'fold' has no option 'bits'.*it has none"):
        REPAIRS["fold"].check_options("repair", ["bits"])


def test_a_repair_of_ones_own_is_checked_timed_and_noted(graph, images, request):
    def narrower(graph, batches=None, *, share=0.9):
        return RepairReport("nothing", (Change("conv1", "share", 1.0, share),))

    mine = Repair(name="narrower", does="x.", function=narrower, moves=("activation grids",), leaves="ranges")
    REPAIRS.register(mine)
    request.addfinalizer(lambda: REPAIRS.remove("narrower"))
    report = repair(graph, "narrower", share=0.8)
    assert (report.name, report.changes[0].after, graph.repairs) == ("narrower", 0.8, ["narrower"])
    assert report.seconds > 0
    with pytest.raises(InvalidInput, match="repair 'cle' cannot follow 'narrower': it rescales .* make the ranges"):
        repair(graph, "cle", [(images, None)])
    applied(graph, "bias", images)
    with pytest.raises(InvalidInput, match="repair 'narrower' cannot follow 'bias': it moves the grids of activations"):
        repair(graph, "narrower")


def test_blocks_are_the_residual_ones(graph):
    (block,) = blocks_of(graph, {layer.node: layer for layer in layers_of(graph)})
    assert block.name == "conv1 to conv2"
    assert block.end.target == torch.ops.aten.relu.default


def test_a_repair_that_reports_nothing_is_refused_by_name(graph, images):
    mine = Repair(name="mine", does="x.", function=lambda graph, batches=None: None)
    with pytest.raises(InvalidInput, match="the repair 'mine' must return a RepairReport, got NoneType"):
        mine(graph, images)
