"""Disagreements, indicators and the guard: against counting by hand."""

from __future__ import annotations

import base64
import io
import json
import math

import numpy as np
import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.behavior.indicators import INDICATORS, Areas, guard, judged
from bitwright.behavior.inputs import half
from bitwright.behavior.pictures import pictures
from bitwright.behavior.shift import SHIFTS, Scale, Under
from bitwright.behavior.study import behavior
from bitwright.behavior.summary import EXAMPLES
from bitwright.errors import InvalidData, InvalidInput
from bitwright.report.panels_behavior import behavior_panel
from bitwright.runtimes.parity import predict
from bitwright.values import Interval
from bitwright.values.behavior import Behavior, Guard


def test_figures_are_those_of_counting_by_hand(digits_graph, batches, decisions):
    policy = bw.Policy.uniform(digits_graph.sites, 3, 3)
    names = ["gaussian-noise", "contrast"]
    found = behavior(digits_graph, policy, batches, names, severities=(2, 5), seed=7)
    assert [(one.shift, one.severity) for one in found.shifted] == [(n, s) for n in names for s in (2, 5)]
    scale, truth = Scale.of(batches), torch.cat([targets for _, targets in batches])
    for one in (found.clean, *found.shifted):
        under = list(Under(batches, SHIFTS[one.shift] if one.shift else None, one.severity, scale, 7))
        exact, ours = (decisions(digits_graph, p, under) for p in (bw.FLOAT, policy))
        assert one.disagreements == int((exact != ours).sum())
        assert one.rate.value == pytest.approx(one.disagreements / 200)
        assert one.float_figure == pytest.approx(float((exact == truth).float().mean()))
        assert one.figure == pytest.approx(float((ours == truth).float().mean()))
        assert one.lost == int(((exact == truth) & (ours != truth)).sum())
        assert one.gained == int(((exact != truth) & (ours == truth)).sum())
        assert one.change.value == pytest.approx((one.gained - one.lost) / 200)
        assert sum(flip.count for flip in one.flips) <= one.disagreements
        for flip in one.flips:
            assert flip.count == int(((exact == flip.before) & (ours == flip.after)).sum())
    assert found.clean.disagreements < found.shifted[1].disagreements
    assert digits_graph.policy == bw.FLOAT
    assert Behavior.from_dict(found.to_dict()) == found
    verdict = bw.evaluate(digits_graph, policy, batches)
    assert found.clean.distance.value == pytest.approx(verdict.distance.value)
    assert behavior(digits_graph, policy, batches, names[:1], severities=(5,), seed=7).shifted == found.shifted[1:2]


def test_indicators_tell_disagreements_and_the_guard_catches_them(digits_graph, batches):
    policy = bw.Policy.uniform(digits_graph.sites, 3, 3)
    found = behavior(digits_graph, policy, batches, ["gaussian-noise", "snow", "elastic"], severities=(3, 5))
    assert {indicator.name for indicator in found.indicators} == set(INDICATORS)
    areas = [indicator.auroc.value for indicator in found.indicators]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > 0.75
    for indicator in found.indicators:
        assert indicator.auroc.low <= indicator.auroc.value <= indicator.auroc.high
        assert indicator.aupr.value > indicator.guess
    rule = found.guard
    assert rule.indicator == found.indicators[0].name
    assert rule.caught.value > 0.8
    assert rule.sent_back.value < 0.95
    assert rule.figure < rule.pair
    assert rule.below == INDICATORS[rule.indicator].small


def test_indicators_are_what_their_formulas_say():
    p = torch.tensor([[0.7, 0.2, 0.1], [0.4, 0.35, 0.25]], dtype=torch.float64)
    rows = p.numpy()
    expected = {
        "margin": [0.5, 0.05],
        "entropy": (-(rows * np.log(rows)).sum(1)).tolist(),
        "gini": (1 - (rows**2).sum(1)).tolist(),
        "least confidence": [0.3, 0.6],
    }
    expected["logit margin"] = np.log([0.7 / 0.2, 0.4 / 0.35]).tolist()
    for name, indicator in INDICATORS.items():
        assert indicator.function(p).tolist() == pytest.approx(expected[name])


def test_areas_and_rates_are_those_of_brute_force():
    generator = np.random.RandomState(0)
    inputs = np.arange(400) % 100
    differs = generator.rand(400) < 0.3
    values = differs + generator.randn(400)
    fit = half(inputs, 3)
    assert fit.sum() == 200
    assert not set(inputs[fit]) & set(inputs[~fit])
    found = judged("entropy", values, differs, inputs, 3)
    risky, safe = values[~fit & differs], values[~fit & ~differs]
    assert found.auroc.value == pytest.approx((risky[:, None] > safe[None]).mean())
    assert found.guess == pytest.approx(differs[~fit].mean())
    threshold = max(t for t in risky if (risky >= t).mean() >= 0.95)
    assert found.tnr.value == pytest.approx((safe < threshold).mean())
    margin = judged("margin", -values, differs, inputs, 3)
    assert margin.auroc.value == pytest.approx(found.auroc.value)


@pytest.mark.parametrize("levels", [5, 10_000])
def test_areas_with_weights_are_scikit_learns(levels):
    metrics = pytest.importorskip("sklearn.metrics")
    generator = np.random.RandomState(3)
    truth = generator.rand(300) < 0.2
    scores = np.round((truth + generator.randn(300)) * levels) / levels if levels > 5 else generator.randint(0, 5, 300)
    areas = Areas(scores.astype(float), truth)
    for weights in (np.ones(300), generator.randint(0, 4, 300).astype(float)):
        auroc, aupr, tnr = areas(weights)
        assert auroc == pytest.approx(metrics.roc_auc_score(truth, scores, sample_weight=weights))
        assert aupr == pytest.approx(metrics.average_precision_score(truth, scores, sample_weight=weights))
        reached = [t for t in scores[truth] if weights[truth & (scores >= t)].sum() >= 0.95 * weights[truth].sum()]
        negatives = weights[~truth]
        assert tnr == pytest.approx(negatives[scores[~truth] < max(reached)].sum() / negatives.sum())


def test_a_guard_is_chosen_on_one_half_and_measured_on_the_other():
    generator = np.random.RandomState(1)
    inputs = np.arange(1000)
    differs = generator.rand(1000) < 0.2
    margins = np.where(differs, 0.3, 0.8) + 0.2 * generator.randn(1000)
    right, exact = (~differs).astype(float), np.ones(1000)
    fit = half(inputs, 5)
    rule = guard("classification", "margin", margins, differs, inputs, fit, ~fit, right, exact, 0.9, 5)
    assert rule.caught.low < rule.caught.value < rule.caught.high
    assert (margins[fit & differs] <= rule.threshold).mean() == pytest.approx(0.9, abs=0.01)
    sent = margins[~fit] <= rule.threshold
    assert rule.sent_back.value == pytest.approx(sent.mean())
    assert rule.caught.value == pytest.approx(sent[differs[~fit]].mean())
    assert rule.pair == pytest.approx(np.where(sent, exact[~fit], right[~fit]).mean())


def test_other_data_and_a_stopped_study(digits_graph, batches):
    policy = bw.Policy.uniform(digits_graph.sites, 3, 3)
    darker = [(inputs * 0.5, targets) for inputs, targets in batches]
    others = {"darker": darker, "mist": {2: darker, 4: batches}}
    kept, made = {}, []

    def remember(name, severity, compute):
        if (name, severity) not in kept:
            made.append((name, severity))
            kept[name, severity] = compute()
        return json.loads(json.dumps(kept[name, severity]))

    def stop(done, total):
        if done == 3:
            raise KeyboardInterrupt

    options = {"severities": (5,), "others": others, "remember": remember}
    with pytest.raises(KeyboardInterrupt):
        behavior(digits_graph, policy, batches, ["snow"], **options, progress=stop)
    found = behavior(digits_graph, policy, batches, ["snow"], **options)
    assert made == [("", 0), ("snow", 5), ("darker", 0), ("mist", 2), ("mist", 4)]  # each once
    rows = {(one.shift, one.severity): one for one in found.shifted}
    assert rows["darker", 0].disagreements == rows["mist", 2].disagreements
    assert rows["mist", 4].disagreements == found.clean.disagreements
    assert found == behavior(digits_graph, policy, batches, ["snow"], severities=(5,), others=others)
    with pytest.raises(InvalidInput, match="the name 'snow' is empty or that of a shift"):
        behavior(digits_graph, policy, batches, ["snow"], others={"snow": batches})


def test_examples_are_disagreements_with_pictures(digits_graph, batches, decisions):
    policy = bw.Policy.uniform(digits_graph.sites, 3, 3)
    found = behavior(digits_graph, policy, batches, ["snow", "contrast"], severities=(3, 5), seed=2)
    assert 0 < len(found.examples) <= EXAMPLES
    scale = Scale.of(batches)
    for one in found.examples:
        under = list(Under(batches, SHIFTS[one.shift] if one.shift else None, one.severity, scale, 2))
        exact, ours = (decisions(digits_graph, p, under) for p in (bw.FLOAT, policy))
        assert (int(exact[one.sample]), int(ours[one.sample])) == (one.before, one.after)
        assert one.before != one.after
    image = pytest.importorskip("PIL.Image")
    shown = pictures(found.examples, batches, None, 2)
    for one, address in zip(found.examples, shown, strict=True):
        under = list(Under(batches, SHIFTS[one.shift] if one.shift else None, one.severity, scale, 2))
        value = torch.cat([inputs[0] for inputs, _ in under])[one.sample, 0]
        pixels = np.array(image.open(io.BytesIO(base64.b64decode(address.partition(",")[2]))))
        wanted = ((value - scale.low[0, 0]) / scale.span[0, 0]).clamp(0, 1) * 255
        np.testing.assert_allclose(pixels, wanted.numpy(), atol=0.5001)


def test_a_file_runs_in_its_runtime_and_carries_its_guard(digits_graph, batches, tmp_path):
    pytest.importorskip("onnxruntime")
    policy = bw.Policy.uniform(digits_graph.sites, 3, 3)
    path = tmp_path / "model.onnx"
    bw.export(digits_graph, path, policy=policy)
    names = ["gaussian-noise", "snow"]
    found = behavior(digits_graph, path, batches, names, severities=(3, 5))
    assert found.runtime.startswith("ONNX Runtime")
    simulated = behavior(digits_graph, policy, batches, names, severities=(3, 5))
    assert simulated.runtime == "simulation"
    for one, other in zip(found.shifted, simulated.shifted, strict=True):
        assert abs(one.disagreements - other.disagreements) <= 4  # fused kernels round otherwise now and then
    with pytest.raises(InvalidInput, match="carries no guard"):
        bw.Guarded(path, lambda x: x)
    bw.add_guard(path, found.guard)
    calls = []

    def exact(inputs):
        calls.append(len(inputs))
        with digits_graph.applied(bw.FLOAT), torch.no_grad():
            return digits_graph(inputs)

    guarded = bw.Guarded(path, exact)
    assert guarded.guard == found.guard
    inputs = torch.cat([inputs for inputs, _ in batches])
    (outputs,), sent = guarded(inputs)
    assert calls == [sent.sum()]
    assert 0 < sent.sum() < len(inputs)
    alone = predict(path, [inputs])
    values = INDICATORS[found.guard.indicator].function(alone.softmax(1).double()).numpy()
    limit = found.guard.threshold
    assert (sent == (values <= limit if found.guard.below else values >= limit)).all()
    torch.testing.assert_close(torch.from_numpy(outputs[~sent]), alone[~sent], rtol=0, atol=0)
    torch.testing.assert_close(torch.from_numpy(outputs[sent]), exact(inputs[sent]))
    assert bw.parity(digits_graph, path, batches).exact_agreement == 1  # the network is as it was


def test_margin_fit_predicts_disagreements_of_each_shift(digits_graph, batches):
    policy = bw.Policy.uniform(digits_graph.sites, 4, 4)
    table = bw.sensitivity(digits_graph, batches, method="margin-fit", bits=(4,))
    found = behavior(digits_graph, policy, batches, ["contrast"], severities=(5,), table=table)
    assert found.clean.predicted == pytest.approx(table.predict(policy), rel=0.3)  # the mean variance for each sample's
    with digits_graph.applied(bw.FLOAT), torch.no_grad():
        top = torch.cat([digits_graph(x).double().topk(2).values for x, _ in batches])
    rows = table.margin.variance(range(len(table.sites)), [0] * len(table.sites))
    wanted = torch.special.ndtr(-(top[:, 0] - top[:, 1]) / math.sqrt(rows.mean())).mean()
    assert found.clean.predicted == pytest.approx(float(wanted), rel=1e-5)
    assert found.shifted[0].predicted < found.clean.predicted  # margins are larger there,
    assert found.shifted[0].disagreements < found.clean.disagreements  # and this is what it comes to


class Words(nn.Module):
    """A classifier of texts, or with two numbers as its output."""

    def __init__(self, decide=True):
        super().__init__()
        self.words, self.head = nn.Embedding(50, 8), nn.Linear(8, 2)
        self.decide = decide

    def forward(self, tokens):
        return self.head(torch.relu(self.words(tokens)).mean(1))


def texts():
    generator = torch.Generator().manual_seed(2)
    return [(torch.randint(0, 50, (40, 12), generator=generator), torch.zeros(40, dtype=torch.long)) for _ in range(2)]


def test_texts_have_shifts_of_their_own():
    data = texts()
    torch.manual_seed(0)
    graph = bw.calibrate(bw.capture(Words().eval(), data[0][0][:2]), data)
    found = behavior(graph, bw.Policy.uniform(graph.sites, 4, 4), data, severities=(5,), task="classification")
    assert {one.shift for one in found.shifted} == {"unknown-words", "dropped-words", "swapped-words"}


class Masked(Words):
    """A classifier of texts with a mask, an input between the two that can be left out, and two outputs."""

    def forward(self, tokens, kinds=None, mask=None):
        words = torch.relu(self.words(tokens)) * (1.0 if mask is None else mask[:, :, None])
        return {"logits": 9 * self.head(words.sum(1)), "words": words}


def masked():
    torch.manual_seed(0)
    model, (tokens, targets) = Masked().eval(), texts()[0]
    data = [({"tokens": tokens, "mask": torch.ones_like(tokens).tril(2)}, targets)]
    return model, data, bw.calibrate(bw.capture(model, data[0][0], returns="logits"), data)


def test_a_shift_changes_the_first_input_of_the_network_whatever_the_order_of_a_dictionary():
    _, data, graph = masked()
    turned = [(dict(reversed(inputs.items())), targets) for inputs, targets in data]
    policy = bw.Policy.uniform(graph.sites, 3, 3)
    assert behavior(graph, policy, turned, severities=(5,)) == behavior(graph, policy, data, severities=(5,))


def test_a_guard_gives_the_float_network_its_inputs_by_name(tmp_path):
    pytest.importorskip("onnxruntime")
    model, [(inputs, _)], graph = masked()
    path, share = tmp_path / "model.onnx", Interval(0.5, 0.4, 0.6, 0.95, "wilson")
    bw.export(graph, path, policy=bw.Policy.uniform(graph.sites, 3, 3))
    rule = Guard("classification", "margin", 1.0, True, 0.95, share, share)  # every margin is below
    guarded = bw.Guarded(path, lambda tokens, mask: model(tokens, mask=mask)["logits"], rule)
    wanted = model(**inputs)["logits"].detach().numpy()
    for given in ((inputs,), (dict(reversed(inputs.items())),), tuple(inputs.values())):
        np.testing.assert_array_equal(guarded(*given)[0][0], wanted)

    class One(Masked):
        def forward(self, tokens, kinds=None, mask=None):
            return super().forward(tokens, kinds, mask)["logits"]

    alone = One().eval()
    alone.load_state_dict(model.state_dict())
    np.testing.assert_array_equal(bw.Guarded(path, alone, rule)(*inputs.values())[0][0], wanted)
    with pytest.raises(InvalidInput, match="as many outputs as the file, 1, got 2"):
        bw.Guarded(path, model, rule)(inputs)


def test_tasks_that_decide_nothing_are_compared_by_distance():
    data = texts()
    torch.manual_seed(0)
    graph = bw.calibrate(bw.capture(Words().eval(), data[0][0][:2]), data)
    numbers = [(tokens, torch.randn(40, 2)) for tokens, _ in data]
    found = behavior(graph, bw.Policy.uniform(graph.sites, 3, 3), numbers, severities=(5,), task="regression")
    assert found.clean.disagreements is None
    assert found.clean.distance.value > 0
    assert found.guard is None
    assert any("decides nothing" in note for note in found.notes)
    assert any("Indicators need probabilities" in note for note in found.notes)
    policy, middle = bw.Policy.uniform(graph.sites, 3, 3), found.clean.distance.value
    counted = behavior(graph, policy, numbers, severities=(5,), task="regression", tolerance=middle)
    assert 0 < counted.clean.disagreements < 80
    assert counted.tolerance == middle
    assert counted.examples[0].distance > middle
    with pytest.raises(InvalidInput, match="tolerance is for tasks that decide nothing"):
        behavior(graph, policy, data, task="classification", tolerance=1.0)


def test_what_cannot_be_studied_is_refused(digits_graph, batches):
    policy = bw.Policy.uniform(digits_graph.sites, 4, 4)
    for options, message in (
        ({"severities": (0,)}, "severities must be some of 1, 2, 3, 4, 5"),
        ({"caught": 0}, "caught must be a share above 0"),
        ({"shifts": ["rain"]}, "shift must be one of"),
        ({"tolerance": -1.0}, "tolerance must be a distance above 0"),
    ):
        with pytest.raises(InvalidInput, match=message):
            behavior(digits_graph, policy, batches, **options)
    with pytest.raises(InvalidData, match="empty"):
        behavior(digits_graph, policy, [])
    data = texts()
    graph = bw.calibrate(bw.capture(Words().eval(), data[0][0][:2]), data)
    with pytest.raises(InvalidData, match=r"shift 'fog' works on images, got inputs of shape \(40, 12\) and int64"):
        behavior(graph, bw.Policy.uniform(graph.sites, 4, 4), data, ["fog"], task="classification")


def test_without_shifts_the_data_as_they_are_is_told(digits_graph, batches):
    found = behavior(digits_graph, bw.Policy.uniform(digits_graph.sites, 3, 3), batches, [])
    assert found.shifted == ()
    share = f"{100 * found.clean.disagreements / 200:.1f}%"
    panel = behavior_panel(found)
    assert panel.sentences[0] == f"The two decide differently on {share} of the inputs."
    assert panel.grid == ()


def test_a_guard_is_measured_under_shifts_that_it_was_not_chosen_under(digits_graph, batches, decisions):
    policy = bw.Policy.uniform(digits_graph.sites, 3, 3)
    names = ["gaussian-noise", "snow", "elastic", "shot-noise"]
    found = behavior(digits_graph, policy, batches, names, severities=(5,), caught=0.9)
    rule = found.guard
    assert rule.tuned_on[0] == ""
    assert len(rule.tuned_on) == 3
    assert len(rule.measured_on) == 2
    assert set(rule.tuned_on) | set(rule.measured_on) == {"", *names}
    scale, fit = Scale.of(batches), half(np.arange(200), 0)
    risks, differs = {}, {}
    for name in ("", *names):
        under = list(Under(batches, SHIFTS[name] if name else None, 5, scale, 0))
        exact, ours = (decisions(digits_graph, p, under) for p in (bw.FLOAT, policy))
        differs[name] = (exact != ours).numpy()
        with digits_graph.applied(policy), torch.no_grad():
            share = torch.cat([digits_graph(*inputs).softmax(1).double() for inputs, _ in under])
        indicator = INDICATORS[rule.indicator]
        risks[name] = indicator.risk(indicator.function(share).numpy())
    chosen = np.concatenate([risks[name][fit & differs[name]] for name in rule.tuned_on])
    edge = np.sort(chosen)[::-1][math.ceil(0.9 * len(chosen)) - 1]
    assert rule.threshold == pytest.approx(-edge if rule.below else edge, rel=1e-6)
    sent = np.concatenate([risks[name][~fit] >= edge - 1e-9 for name in rule.measured_on])
    right = np.concatenate([differs[name][~fit] for name in rule.measured_on])
    assert rule.caught.value == pytest.approx(sent[right].mean())
    assert rule.sent_back.value == pytest.approx(sent.mean())
    alone = behavior(digits_graph, policy, batches, ["snow"], severities=(5,)).guard
    assert alone.tuned_on == alone.measured_on == ("", "snow")
