from __future__ import annotations

import importlib

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional

from bitwright.errors import BitwrightError, InvalidData, InvalidInput, InvalidPolicy, PolicyMismatch
from bitwright.graph import calibrate, capture
from bitwright.tasks import evaluate, reference, wilson
from bitwright.values import FLOAT, Policy, Verdict

evaluate_module = importlib.import_module("bitwright.tasks.evaluate")


@pytest.fixture
def batches(digits_data):
    inputs, targets = digits_data[1]
    return list(zip(inputs[:250].split(100), targets[:250].split(100), strict=True))


@pytest.fixture
def dense():
    """A calibrated network with a class at each pixel, and its data."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 4, 1)).eval()
    inputs, targets = torch.randn(12, 3, 6, 5), torch.randint(0, 4, (12, 6, 5))
    data = [(inputs[:7], targets[:7]), (inputs[7:], targets[7:])]
    return calibrate(capture(model, inputs[:2]), data), data


def _brute(graph, policy, batches):
    with torch.no_grad():
        graph.apply(policy)
        quantized = torch.cat([graph(x) for x, _ in batches]).double()
        graph.apply(FLOAT)
        exact = torch.cat([graph(x) for x, _ in batches]).double()
    return quantized, exact, torch.cat([y for _, y in batches])


def test_every_figure_is_what_its_definition_gives(digits_graph, batches):
    policy = Policy.uniform(digits_graph.sites, 3, 3)
    quantized, exact, targets = _brute(digits_graph, policy, batches)
    verdict = evaluate(digits_graph, policy, batches)
    hits, float_hits = (quantized.argmax(1) == targets).sum(), (exact.argmax(1) == targets).sum()
    assert verdict.accuracy == wilson(int(hits), 250)
    assert verdict.float_accuracy == wilson(int(float_hits), 250)
    assert verdict.agreement == wilson(int((quantized.argmax(1) == exact.argmax(1)).sum()), 250)
    assert verdict.accuracy_change.value == pytest.approx(int(hits - float_hits) / 250)
    assert verdict.loss.value == pytest.approx(float(functional.cross_entropy(quantized, targets)))
    assert verdict.float_loss.value == pytest.approx(float(functional.cross_entropy(exact, targets)))
    divergence = functional.kl_div(
        quantized.log_softmax(1), exact.log_softmax(1), log_target=True, reduction="batchmean"
    )
    assert verdict.kl.value == pytest.approx(float(divergence))
    assert (verdict.samples, verdict.policy_name) == (250, "W3A3")
    assert verdict.accuracy_change.method == "paired bootstrap"
    for interval in (verdict.loss, verdict.float_loss, verdict.kl, verdict.accuracy_change):
        assert interval.low < interval.value < interval.high


def test_dense_figures_average_over_positions_and_resample_samples(dense):
    graph, data = dense
    policy = Policy.uniform(graph.sites, 3, 4)
    quantized, exact, targets = _brute(graph, policy, data)
    verdict = evaluate(graph, policy, data)
    assert verdict.samples == 12
    assert verdict.accuracy.value == pytest.approx(float((quantized.argmax(1) == targets).double().mean()))
    assert verdict.agreement.value == pytest.approx(float((quantized.argmax(1) == exact.argmax(1)).double().mean()))
    assert verdict.loss.value == pytest.approx(float(functional.cross_entropy(quantized, targets)))
    log_p, log_q = exact.log_softmax(1), quantized.log_softmax(1)
    assert verdict.kl.value == pytest.approx(float((log_p.exp() * (log_p - log_q)).sum(1).mean()))
    assert verdict.accuracy.method == verdict.agreement.method == "bootstrap"


def test_float_against_itself_changes_nothing(digits_graph, batches):
    verdict = evaluate(digits_graph, FLOAT, batches)
    assert verdict.accuracy == verdict.float_accuracy
    assert verdict.loss == verdict.float_loss
    assert verdict.kl.value == verdict.kl.high == 0
    assert verdict.agreement.value == 1
    assert verdict.accuracy_change.value == 0


def test_the_split_into_batches_does_not_matter(digits_graph, digits_data):
    inputs, targets = digits_data[1][0][:120], digits_data[1][1][:120]
    policy = Policy.uniform(digits_graph.sites, 4, 4)
    whole = evaluate(digits_graph, policy, [(inputs, targets)])
    parts = evaluate(digits_graph, policy, zip(inputs.split(50), targets.split(50), strict=True))
    assert parts.accuracy == whole.accuracy
    assert parts.kl.value == pytest.approx(whole.kl.value, rel=1e-4)


def test_a_reference_gives_the_same_verdict_and_saves_the_float_passes(digits_graph, batches):
    policy = Policy.uniform(digits_graph.sites, 4, 4)
    floats = reference(digits_graph, batches)
    calls = []
    digits_graph.module.register_forward_hook(lambda *arguments: calls.append(digits_graph.policy.name))
    assert evaluate(digits_graph, policy, batches, reference=floats) == evaluate(digits_graph, policy, batches)
    infers = ["float"]  # from two samples
    assert calls == ["W4A4"] * 3 + infers + ["float"] * 3 + ["W4A4"] * 3


def test_large_outputs_are_not_kept_and_the_verdict_is_the_same(digits_graph, batches, monkeypatch):
    policy = Policy.uniform(digits_graph.sites, 4, 4)
    expected = evaluate(digits_graph, policy, batches)
    monkeypatch.setattr(evaluate_module, "KEEP_BYTES", 100 * 10 * 4)
    floats = reference(digits_graph, batches)
    assert floats.outputs is None
    assert floats.samples == 250
    assert evaluate(digits_graph, policy, batches, reference=floats) == expected
    monkeypatch.setattr(evaluate_module, "GROUP_BYTES", 0)
    assert evaluate(digits_graph, policy, batches) == expected


def test_data_that_comes_in_another_order_each_time_is_fine_without_a_reference(digits_graph, digits_data):
    inputs, targets = digits_data[1][0][:100], digits_data[1][1][:100]

    class Shuffled:
        def __iter__(self):
            for chosen in torch.randperm(100).split(40):
                yield inputs[chosen], targets[chosen]

    policy = Policy.uniform(digits_graph.sites, 4, 4)
    assert evaluate(digits_graph, policy, Shuffled()).kl.value == pytest.approx(
        evaluate(digits_graph, policy, [(inputs, targets)]).kl.value, rel=1e-4
    )
    with pytest.raises(InvalidData, match="batch 0 differs in its targets from the reference"):
        evaluate(digits_graph, policy, Shuffled(), reference=reference(digits_graph, Shuffled()))


def test_float_outputs_hold_losses_and_hits_of_each_sample(digits_graph, batches):
    floats = reference(digits_graph, batches)
    _, exact, targets = _brute(digits_graph, FLOAT, batches)
    np.testing.assert_allclose(
        floats.columns["loss"],
        functional.cross_entropy(exact, targets, reduction="none").numpy(),
        rtol=1e-9,
        atol=1e-12,
    )
    np.testing.assert_array_equal(floats.columns["accuracy"], (exact.argmax(1) == targets).numpy())
    assert floats.figure.value == wilson(int((exact.argmax(1) == targets).sum()), 250)


def test_the_policy_in_force_stays_in_force_also_after_an_error(digits_graph, batches):
    before = Policy.uniform(digits_graph.sites, 5, 5)
    digits_graph.apply(before)
    evaluate(digits_graph, Policy.uniform(digits_graph.sites, 4, 4), batches)
    assert digits_graph.policy == before
    reference(digits_graph, batches)
    assert digits_graph.policy == before
    with pytest.raises(InvalidInput, match="ZeroDivisionError"):
        evaluate(digits_graph, FLOAT, batches, loss=lambda outputs, targets: 1 / 0)
    assert digits_graph.policy == before


def test_weights_are_rounded_once_for_a_policy(digits_graph, batches, monkeypatch):
    from bitwright.quantizers import uniform

    rounded = []
    original = uniform.fake_quantize
    monkeypatch.setattr(uniform, "fake_quantize", lambda t, a: rounded.append(t.shape) or original(t, a))
    evaluate(digits_graph, Policy.uniform(digits_graph.sites, weights=4), batches)
    assert len(rounded) == len(digits_graph.sites.weights)
    rounded.clear()
    floats = reference(digits_graph, batches)
    evaluate(digits_graph, Policy.uniform(digits_graph.sites, weights=3), batches, reference=floats)
    assert len(rounded) == len(digits_graph.sites.weights)


def test_a_loss_of_each_sample_is_used(dense):
    graph, data = dense
    policy = Policy.uniform(graph.sites, 4, 4)
    quantized, _, targets = _brute(graph, policy, data)
    verdict = evaluate(graph, policy, data, loss=lambda o, t: functional.cross_entropy(o, t, reduction="none") * 2)
    assert verdict.loss.value == pytest.approx(2 * float(functional.cross_entropy(quantized, targets)), rel=1e-5)
    assert verdict.loss.method == "bootstrap"


def test_metrics_see_everything_at_once(digits_graph, batches):
    seen = []

    def top2(outputs, targets):
        seen.append(len(targets))
        return (outputs.topk(2, 1).indices == targets[:, None]).any(1).float().mean()

    policy = Policy.uniform(digits_graph.sites, 3, 3)
    verdict = evaluate(digits_graph, policy, batches, metric={"top-2": top2})
    quantized, exact, targets = _brute(digits_graph, policy, batches)
    assert seen.count(250) == 2  # and on groups, for its interval
    assert verdict.primary.value.method == "bootstrap"
    figure = verdict.primary
    assert verdict.primary_name == "top-2"
    assert figure.value.value == pytest.approx(float(top2(quantized, targets)))
    assert figure.reference.value == pytest.approx(float(top2(exact, targets)))
    assert figure.change.value == pytest.approx(figure.value.value - figure.reference.value)
    assert verdict.lost.value == pytest.approx(-100 * figure.change.value)
    assert Verdict.from_dict(verdict.to_dict()) == verdict


def test_progress_counts_samples(digits_graph, batches):
    seen = []
    floats = reference(digits_graph, batches, progress=lambda *a: seen.append(a))
    evaluate(digits_graph, FLOAT, batches, reference=floats, progress=lambda *a: seen.append(a))
    assert seen == [(100, None), (200, None), (250, None), (100, 250), (200, 250), (250, 250)]


def test_seed_and_level_reach_the_intervals(digits_graph, batches):
    policy = Policy.uniform(digits_graph.sites, 4, 4)
    first = evaluate(digits_graph, policy, batches, level=0.5)
    assert first == evaluate(digits_graph, policy, batches, level=0.5)
    assert first.kl != evaluate(digits_graph, policy, batches, level=0.5, seed=1).kl
    assert {i.level for i in (first.accuracy, first.accuracy_change, first.loss, first.kl)} == {0.5}


class TestBadInput:
    def test_no_data(self, digits_graph):
        with pytest.raises(InvalidData, match="batches are empty: evaluation needs at least one batch"):
            evaluate(digits_graph, FLOAT, [])

    def test_one_sample(self, digits_graph, batches):
        with pytest.raises(InvalidData, match="at least 2 samples for an interval, got 1"):
            evaluate(digits_graph, FLOAT, [(batches[0][0][:1], batches[0][1][:1])])

    def test_targets_outside_the_classes(self, digits_graph, batches):
        with pytest.raises(InvalidData, match=r"between 0 and 9 \(the model has 10 outputs\), got 10"):
            evaluate(digits_graph, FLOAT, [(x, y.clamp_min(1) * 0 + 10) for x, y in batches])

    def test_targets_of_the_wrong_shape(self, dense):
        graph, data = dense
        with pytest.raises(InvalidData, match=r"targets must have shape \(7, 6, 5\) .* got \(7, 6\)"):
            evaluate(graph, FLOAT, [(x, y[..., 0]) for x, y in data])

    def test_no_targets(self, digits_graph, batches):
        with pytest.raises(InvalidData, match="targets are needed here"):
            evaluate(digits_graph, FLOAT, [x for x, _ in batches], "classification")

    def test_outputs_that_are_no_logits(self):
        torch.manual_seed(0)
        graph = capture(nn.Linear(4, 1).eval(), torch.randn(2, 4))
        data = [(torch.randn(5, 4), torch.zeros(5, dtype=torch.long))]
        with pytest.raises(
            InvalidInput, match=r"not clear what outputs of shape \(2, 1\) .* name the task with --task"
        ):
            evaluate(graph, FLOAT, data)

    def test_an_unknown_site(self, digits_graph, batches):
        with pytest.raises(InvalidPolicy, match=r"names site 'conv1.wieght'.*did you mean 'conv1.weight'"):
            evaluate(digits_graph, Policy({"conv1.wieght": 4}), batches)

    def test_a_reference_of_another_graph(self, digits_graph, dense):
        with pytest.raises(PolicyMismatch, match="the reference was made for graph"):
            evaluate(digits_graph, FLOAT, [], reference=reference(*dense))

    @pytest.mark.parametrize("count", [1, 2])
    def test_a_reference_of_more_data(self, digits_graph, batches, count):
        floats = reference(digits_graph, batches)
        with pytest.raises(InvalidData, match=f"reference was made from 3 batches, this data has {count}"):
            evaluate(digits_graph, FLOAT, batches[:count], reference=floats)

    def test_a_reference_of_less_data(self, digits_graph, batches):
        floats = reference(digits_graph, batches[:2])
        with pytest.raises(InvalidData, match="batch 2 differs in its targets"):
            evaluate(digits_graph, FLOAT, batches, reference=floats)

    def test_a_loss_of_the_wrong_shape(self, digits_graph, batches):
        with pytest.raises(InvalidInput, match=r"loss must return one number per sample, shape \(100,\).*\(10,\)"):
            evaluate(digits_graph, FLOAT, batches, loss=lambda outputs, targets: outputs.mean(0))

    def test_a_loss_that_is_not_finite(self, digits_graph, batches):
        with pytest.raises(InvalidData, match="the loss is not finite"):
            evaluate(digits_graph, FLOAT, batches, loss=lambda outputs, targets: outputs.sum(1) * float("nan"))


def _broken(*_):
    raise ValueError("no such key\nmore")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"loss": _broken}, r"the function that was given as loss failed: ValueError: no such key \(.*line \d+\)$"),
        ({"metric": _broken}, r"the function that was given as metric failed: ValueError: no such key \(.*line \d+\)$"),
        ({"loss": lambda z, y: "low"}, "loss must return one number per sample, got str"),
        ({"metric": lambda z, y: None}, "metric must return one number, got NoneType"),
        ({"metric": lambda z, y: z}, "metric must return one number, got Tensor"),
        ({"metric": lambda z, y: float("nan")}, "metric must return a finite number, got nan"),
    ],
)
def test_what_is_wrong_with_a_users_function_is_said(digits_graph, batches, given, message):
    with pytest.raises(BitwrightError, match=message):
        evaluate(digits_graph, FLOAT, batches, **given)


def test_without_targets_the_inputs_tell_a_reference_from_one_of_other_data(digits_graph, batches):
    bare = [(inputs, None) for inputs, _ in batches]
    assert len(bare) > 1
    floats = reference(digits_graph, bare, "embedding")
    policy = Policy.uniform(digits_graph.sites, 4, 8)
    assert evaluate(digits_graph, policy, bare, reference=floats) == evaluate(digits_graph, policy, bare, "embedding")
    with pytest.raises(InvalidData, match="batch 0 differs in its inputs from the reference"):
        evaluate(digits_graph, policy, [bare[1], bare[0], *bare[2:]], reference=floats)
