from __future__ import annotations

import copy
import json
from dataclasses import replace

import pytest
import torch

import bitwright as bw
from bitwright.debug import STEPS, debug
from bitwright.debug.state import measurement
from bitwright.errors import InvalidInput, PolicyMismatch
from bitwright.repair import REPAIRS, Repair, RepairReport, apply_recipe
from bitwright.report.panels_sweep import sweep_panel
from bitwright.sensitivity import sweep
from bitwright.session import Samples, Session
from bitwright.store import Memory
from bitwright.tasks import Classification, evaluate
from bitwright.values import FLOAT, Policy
from bitwright.values.findings import Findings

WITHOUT_REPAIRS = ()


@pytest.fixture(scope="module")
def graph(digits_model, digits_data):
    return bw.capture(digits_model, digits_data[0][0][:2])


@pytest.fixture(scope="module")
def whole_flow(graph, digits_task, digits_model):
    """Two bits everywhere, which nothing short of training mends: every step is taken."""
    return debug(graph, digits_task, 0.0, weights=2, activations=2, model=digits_model, repairs=WITHOUT_REPAIRS)


def test_a_target_that_holds_stops_at_step_2(graph, digits_task, digits_model):
    findings = debug(graph, digits_task, 1.0)
    assert [step.number for step in findings.steps] == [1, 2]
    assert findings.outcome == "holds"
    assert findings.recipe.actions == ()
    assert "Nothing needs to be changed" in findings.recommendation
    again = apply_recipe(bw.capture(digits_model, graph.example_inputs), findings.recipe, digits_task.calibration)
    assert findings.verdict == evaluate(again, findings.recipe.policy, digits_task.evaluation)


def test_an_undecided_target_goes_on_mending_and_ends_before_bits_are_spent(graph, digits_task):
    evaluation = [(x[:60], y[:60]) for x, y in digits_task.evaluation]  # too few: a flipped prediction is 1.7 points
    task = Classification(digits_task.calibration, evaluation[:1])
    findings = debug(graph, task, 1.0, weights=4, activations=4, repairs=("gptq",))
    assert findings.outcome == "undecided"
    lost = findings.verdict.lost
    assert lost.value <= 1.0 < lost.high
    assert [step.number for step in findings.steps] == [1, 2, 3, 4]
    assert findings.recipe.repaired("gptq")
    assert not any(action.kind == "bits" for action in findings.recipe.actions)
    assert "is undecided: the interval lies on both sides" in findings.recommendation


def test_unbalanced_channels_are_mended_by_equalization(unbalanced_model, digits_task, digits_data):
    graph = bw.capture(unbalanced_model, digits_data[0][0][:2], quantizer=bw.edge_quantizer("tensor"))
    findings = debug(graph, digits_task, 2.0, weights=5, model=unbalanced_model)
    second, third = findings.step(2), findings.step(3)
    assert second.verdict.accuracy_change.value < -0.02  # it collapses
    assert second.at_fault == ("weight",)
    assert third.measured[1].label == "repair cle"
    assert third.measured[1].kept
    assert third.measured[1].distance < 0.2 * third.measured[0].distance
    assert "repair cle" in third.conclusion
    assert [str(action) for action in findings.recipe.actions] == ["repair cle"]
    assert findings.outcome == "holds"
    assert findings.steps[-1] == third
    assert findings.verdict.accuracy_change.value >= -0.005
    fresh = bw.capture(unbalanced_model, digits_data[0][0][:2], quantizer=bw.edge_quantizer("tensor"))
    again = apply_recipe(fresh, findings.recipe, digits_task.calibration)
    verdict = evaluate(again, again.policy, digits_task.evaluation)
    assert verdict.accuracy == findings.verdict.accuracy
    assert verdict.kl.value == pytest.approx(findings.verdict.kl.value, rel=1e-4)  # equalized float rounds otherwise


def test_the_site_with_outliers_is_named_first_and_mended_alone(outlier_model, digits_task, digits_data):
    graph = bw.capture(outlier_model, digits_data[0][0][:2])
    findings = debug(graph, digits_task, 2.0, model=outlier_model, repairs=WITHOUT_REPAIRS)
    second, fourth = findings.step(2), findings.step(4)
    assert second.verdict.accuracy_change.value < -0.1  # it collapses
    assert second.at_fault == ("activation",)
    assert findings.step(3).status == "skipped"
    assert fourth.sweep.rows[0].label == "layer1.relu1"
    assert fourth.conclusion.startswith("The worst activation is layer1.relu1")
    assert {action.options["site"] for action in findings.recipe.actions} == {"layer1.relu1"}
    assert findings.outcome == "holds"
    assert findings.steps[-1] == fourth
    assert abs(findings.verdict.accuracy_change.value) <= 0.005
    # The recipe does the same to a graph that was captured anew, as fitted and when it is fitted again.
    for recipe in (findings.recipe, findings.recipe.with_fitted(None)):
        again = apply_recipe(bw.capture(outlier_model, digits_data[0][0][:2]), recipe, digits_task.calibration)
        assert evaluate(again, again.policy, digits_task.evaluation) == findings.verdict


def test_every_step_says_what_it_measured_and_what_stands_in_the_way(whole_flow):
    assert [step.number for step in whole_flow.steps] == list(range(1, len(STEPS) + 1))
    assert whole_flow.outcome == "fails"
    for step in whole_flow.steps:
        assert step.title
        assert step.rule
        assert step.conclusion
        assert step.seconds > 0
        if step.status == "done":
            assert step.measured
            assert step.passes > 0
    assert "weight" in whole_flow.step(2).at_fault
    assert "does not hold" in whole_flow.recommendation
    assert "bits at" in whole_flow.recommendation or "at 8 bits" in whole_flow.recommendation
    last = whole_flow.steps[-1]
    assert last.advice in whole_flow.recommendation
    assert "within the target" in last.conclusion
    assert "within the target" not in whole_flow.recommendation  # what was found is said at the step
    assert any("says little" in note for note in whole_flow.notes)


def test_where_nothing_else_is_enough_the_network_is_trained(graph, digits_task):
    findings = debug(graph, digits_task, 0.0, weights=2, activations=3, repairs=("qat",), start_at=8)
    (last,) = findings.steps
    before, trained = last.measured[:2]
    assert (trained.label, trained.kept) == ("repair qat", True)
    assert trained.distance < 0.7 * before.distance
    assert [str(action) for action in findings.recipe.actions] == ["repair qat"]
    assert "repair qat" in last.conclusion
    assert findings.verdict.distance == last.verdict.distance
    alone = debug(graph, digits_task, 0.0, weights=2, activations=3, repairs=(), start_at=8)
    assert not alone.recipe.actions
    assert last.verdict.distance.value < alone.verdict.distance.value


def test_steps_5_and_6_rank_and_show_the_worst(whole_flow, graph):
    fifth, sixth = whole_flow.step(5), whole_flow.step(6)
    assert len(fifth.sweep) == len(graph.sites)
    assert fifth.sweep.rows[0].label in fifth.conclusion
    assert [view.site for view in sixth.tensors] == [row.label for row in fifth.sweep.rows[:3]]
    assert all(view.bits == 2 for view in sixth.tensors)


def test_a_change_is_kept_only_when_it_helps(whole_flow):
    for step in whole_flow.steps:
        if step.number not in (3, 4, 7) or step.status == "skipped":
            continue
        kl = step.measured[0].distance
        for row in step.measured[1:]:
            if row.kept:
                assert row.distance <= 0.95 * kl
                kl = row.distance
    fixed = whole_flow.step(7)
    assert fixed.change
    assert any(row.kept for row in fixed.measured)


def test_what_was_fitted_is_fitted_again_after_sites_have_changed(graph, digits_task, digits_model):
    findings = debug(graph, digits_task, 0.0, weights=2, activations=3, repairs=("bias",))
    assert findings.step(3).recipe.repaired("bias")
    seventh = findings.step(7)
    assert any(row.label.startswith("fitted again after") and row.kept for row in seventh.measured)
    names = [str(action) for action in seventh.recipe.actions]
    assert names[-1] == "repair bias"
    assert names.count("repair bias") == 1
    assert any("at 8 bits" in name for name in names)
    again = apply_recipe(bw.capture(digits_model, graph.example_inputs), seventh.recipe, digits_task.calibration)
    assert evaluate(again, again.policy, digits_task.evaluation).accuracy == seventh.verdict.accuracy


def test_the_graph_is_left_alone(graph, digits_model, digits_data, whole_flow):
    assert graph.policy == bw.FLOAT
    assert all(not quantizer.calibrated for quantizer in graph.quantizers.values() if quantizer.site.kind != "weight")
    with torch.no_grad():
        x = digits_data[1][0][:32]
        assert torch.equal(graph(x), bw.capture(digits_model, graph.example_inputs)(x))


def test_to_json_and_back(whole_flow):
    assert Findings.from_json(whole_flow.to_json()) == whole_flow
    with pytest.raises(InvalidInput, match="the findings: version must be 3, got 1"):
        Findings.from_dict({"bitwright": "findings", "version": 1})
    with pytest.raises(InvalidInput, match="step must be one that the flow took"):
        whole_flow.step(9)


def test_a_stopped_flow_goes_on_where_it_was(graph, digits_task, whole_flow, digits_model):
    class Stop(Exception):
        pass

    class Kept(Memory):
        steps: list[int]

        def put(self, key, kind, payload):
            if kind == "debug step":
                if len(self.steps) == stop_after:
                    raise Stop
                self.steps.append(payload["number"])
            super().put(key, kind, json.loads(json.dumps(payload)))

    store = Kept()
    store.steps = []
    samples = Samples.of(digits_task.calibration, digits_task.evaluation, 512)

    def run():
        session = Session(graph, digits_task, samples, store=store)
        return debug(session, target_drop=0.0, weights=2, activations=2, model=digits_model, repairs=WITHOUT_REPAIRS)

    stop_after = 4
    with pytest.raises(Stop):
        run()
    assert store.steps == [1, 2, 3, 4]
    stop_after = 100
    findings = run()
    assert store.steps == [1, 2, 3, 4, 5, 6, 7, 8]
    assert findings.recipe == whole_flow.recipe
    assert [s.conclusion for s in findings.steps] == [s.conclusion for s in whole_flow.steps]
    assert run() == findings  # nothing is measured again
    assert len(store.steps) == 8


def test_a_repair_that_was_edited_is_tried_anew(graph, digits_task, request):
    """The store keeps steps under when a repair is tried and with which options, not under its name alone."""

    class Stop(Exception):
        pass

    def stop(step):
        if step.number == 3:
            tried.append([row.label for row in step.measured if "mine" in row.label])
            raise Stop

    store, tried = Memory(), []
    samples = Samples.of(digits_task.calibration, digits_task.evaluation, 64)
    request.addfinalizer(lambda: REPAIRS.remove("mine"))
    for options, worthwhile in (({}, lambda graph: False), ({}, lambda graph: True), ({"a": 2}, lambda graph: True)):
        about = {"function": unchanged, "mends": {"weights": options}, "worthwhile": worthwhile}
        REPAIRS.register(Repair(name="mine", does="x.", **about))
        session = Session(graph, digits_task, samples, store=store)
        with pytest.raises(Stop):
            debug(session, target_drop=0.0, weights=2, repairs=("mine",), on_step=stop)
    assert tried == [[], ["repair mine"], ["repair mine (a=2)"]]


def unchanged(graph, batches=None, *, a: int = 1):
    return RepairReport("nothing")


def test_start_at_any_step_and_from_a_recipe(graph, digits_task, whole_flow):
    findings = debug(graph, digits_task, 100.0, start_at=8, recipe=whole_flow.recipe, repairs=WITHOUT_REPAIRS)
    assert [step.number for step in findings.steps] == [8]
    assert findings.outcome == "holds"
    assert findings.verdict == whole_flow.step(8).verdict


def test_a_metric_of_ones_own_decides(graph, digits_task):
    def share_of_zeros(outputs, targets):
        return float((outputs.argmax(1)[targets == 0] == 0).double().mean())

    task = Classification(digits_task.calibration, digits_task.evaluation, metric=share_of_zeros)
    findings = debug(graph, task, 1.0)
    assert findings.step(2).verdict.figures["metric"].value.value > 0.9
    assert findings.outcome == "holds"  # a metric of one's own has no interval
    assert findings.step(2).conclusion.startswith("Metric 0.9")


def test_a_graph_that_is_not_the_model_stops_the_flow(graph, digits_task, digits_model):
    other = copy.deepcopy(digits_model)
    with torch.no_grad():
        other.linear.bias += torch.arange(10.0)
    findings = debug(graph, digits_task, model=other)
    assert [step.status for step in findings.steps] == ["failed"]
    assert "does not compute what the model computes" in findings.recommendation
    assert findings.outcome == "fails"


def test_bad_input_is_one_line(graph, digits_task):
    with pytest.raises(InvalidInput, match="start_at must be between 1 and 8, got 9"):
        debug(graph, digits_task, start_at=9)
    with pytest.raises(InvalidInput, match="target_drop must be between 0 and 100 points, got -1"):
        debug(graph, digits_task, -1)
    with pytest.raises(InvalidInput, match="got 'adarond'; did you mean 'adaround'"):
        debug(graph, digits_task, repairs=("adarond",))
    with pytest.raises(InvalidInput, match="repairs must be a dictionary, a list or None, got the text 'cle'"):
        debug(graph, digits_task, repairs="cle")
    for task, made in ((None, "Classification"), (bw.tasks.Regression(digits_task.calibration), "Regression")):
        with pytest.raises(
            InvalidInput, match=rf"the task needs data here: bw.tasks.{made}\(calibration, evaluation\)"
        ):
            debug(graph, task)
    with pytest.raises(InvalidInput, match="the target is float everywhere"):
        debug(graph, digits_task, weights=None, activations=None)
    with pytest.raises(InvalidInput, match="ranges must be one of"):
        debug(graph, digits_task, ranges="mes")
    with pytest.raises(PolicyMismatch, match="made for graph other"):
        debug(graph, digits_task, policy=bw.Policy({"linear.weight": 4}, "other"))


class Kept(Classification):
    """Calls the share of equal predictions otherwise."""

    measures = tuple(replace(m, name="kept") if m.name == "agreement" else m for m in Classification.measures)
    agreement = bound = "kept"

    def against(self, answer, expected):
        values = super().against(answer, expected)
        return {**values, "kept": values.pop("agreement")}


def test_decisions_are_counted_under_the_name_that_the_task_has_for_them(digits_graph, digits_task):
    data = [next(iter(digits_task.calibration))]
    calibrated = bw.calibrate(digits_graph, data)
    policy = Policy.uniform(calibrated.sites, 3, 8)
    plain, own = (evaluate(calibrated, policy, data, task) for task in (Classification(), Kept()))
    assert own.decided.value == plain.agreement
    assert measurement("x", own) == measurement("x", plain)
    assert measurement("x", own).agreement is not None
    on, off = (
        sweep(calibrated, data, bits, sites=["conv1.weight"], base=base, task=Kept())
        for bits, base in (((3,), FLOAT), ((None,), policy))
    )
    assert f"the kept with float {100 * off.base_row.kept:.1f}%" in sweep_panel(on, off).sentence
