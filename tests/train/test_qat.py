"""Quantization-aware training: what it brings, what it leaves alone, and that it can be interrupted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidData, InvalidInput
from bitwright.repair import put_fitted, repair, take_fitted
from bitwright.train import qat
from bitwright.train.learner import Learner


@pytest.fixture
def batches(digits_data):
    inputs, targets = digits_data[0]
    return [(inputs[i : i + 64], targets[i : i + 64]) for i in range(0, 512, 64)]


@pytest.fixture
def fresh(digits_data):
    return [digits_data[1]]


def outputs(graph, batches):
    with torch.no_grad():
        return torch.cat([graph(inputs) for inputs, _ in batches])


@pytest.mark.parametrize(("weights", "activations"), [(2, 3), (3, 8)])
def test_the_trained_network_follows_the_float_one_more_closely(digits_graph, batches, fresh, weights, activations):
    policy = bw.Policy.uniform(digits_graph.sites, weights, activations)
    before = bw.evaluate(digits_graph, policy, fresh)
    found = qat(digits_graph, batches, policy, epochs=6, learning_rate=0.01)
    after = bw.evaluate(digits_graph, policy, fresh)
    assert after.distance.value < 0.5 * before.distance.value
    assert after.agreement.value > before.agreement.value
    assert found.epochs[-1].loss < 0.5 * found.epochs[0].loss
    assert all(0 < epoch.moved < 1 for epoch in found.epochs)
    assert found.epochs[-1].rate == pytest.approx(0)


def test_the_float_network_stays_what_it_is_and_so_do_its_quantizers(digits_graph, batches):
    policy = bw.Policy.uniform(digits_graph.sites, 3, 4)
    expected = outputs(digits_graph, batches)
    weights = {name: value.clone() for name, value in digits_graph.module.state_dict().items()}
    stands = dict(digits_graph.quantizers)
    qat(digits_graph, batches, policy, epochs=1)
    assert digits_graph.policy == policy
    assert digits_graph.quantizers == stands
    after = digits_graph.module.state_dict()
    assert all(torch.equal(after[name], value) for name, value in weights.items())
    assert torch.equal(outputs(digits_graph.apply(bw.FLOAT), batches), expected)


@pytest.mark.parametrize("ranges", ["mse", "minmax"])
def test_what_was_learned_computes_the_same_once_it_is_handed_over(digits_graph, batches, ranges):
    bw.calibrate(digits_graph, batches, ranges=ranges)
    digits_graph.apply(bw.Policy.uniform(digits_graph.sites, 3, 4))
    learner = Learner(digits_graph)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for quantizer in learner.learned.values():
            quantizer.log_step.add_(0.1 * torch.randn(quantizer.log_step.shape, generator=generator))
            if quantizer.moves is not None:
                quantizer.moves.add_(torch.randn(quantizer.moves.shape, generator=generator))
        for bias in learner.biases:
            bias.move.add_(torch.randn(bias.move.shape, generator=generator))
    assert learner.biases
    learner.settle(())
    expected = outputs(digits_graph, batches)
    learner.finish()
    assert torch.equal(outputs(digits_graph, batches), expected)


def test_training_starts_from_what_repairs_found(digits_graph, batches):
    digits_graph.apply(bw.Policy.uniform(digits_graph.sites, 3, 4))
    repair(digits_graph, "gptq", batches)
    expected = {site.name: digits_graph.quantizers[site.name].integers(3) for site in digits_graph.sites.weights}
    biases = {label: bias.corrections[3].clone() for label, bias in digits_graph.biases().items()}
    learner = Learner(digits_graph)
    assert {name: value.float().tolist() for name, value in learner.integers().items()} == {
        name: value.tolist() for name, value in expected.items()
    }
    learner.undo()
    assert all(torch.equal(bias.corrections[3], biases[label]) for label, bias in digits_graph.biases().items())


def test_a_recipe_keeps_it_and_the_file_computes_it(digits_graph, digits_model, batches, tmp_path):
    pytest.importorskip("onnxruntime")
    policy = bw.Policy.uniform(digits_graph.sites, 2, 4)
    qat(digits_graph, batches, policy, epochs=2)
    fitted = take_fitted(digits_graph, policy, "r")
    fresh = bw.capture(digits_model, batches[0][0][:2])
    put_fitted(fresh, fitted)
    assert torch.equal(outputs(fresh.apply(policy), batches), outputs(digits_graph, batches))
    bw.export(digits_graph, tmp_path / "model.onnx")
    parity = bw.parity(digits_graph, tmp_path / "model.onnx", batches, task="classification")
    assert (parity.exact_agreement, parity.exact_difference) == (1.0, 0.0)


@pytest.mark.parametrize("norms", [False, True])
def test_ranges_can_stay_as_they_were_calibrated(digits_graph, batches, norms):
    policy = bw.Policy.uniform(digits_graph.sites, 3, 4)
    digits_graph.apply(policy)
    before = {name: digits_graph.quantizers[name].own_grid(bits) for name, bits in policy.bits.items()}
    learned = qat(digits_graph.copy(), batches, policy, epochs=3, norms=norms)
    course = qat(digits_graph, batches, policy, epochs=3, learn_steps=False, norms=norms)
    assert any(site.step != 1 for site in learned.sites if site.oscillating is None)
    for site in course.sites:
        if site.oscillating is None or not norms:  # norms are folded into the steps of weights
            after = digits_graph.quantizers[site.name].own_grid(site.bits)
            assert torch.equal(after.scale, before[site.name].scale), site
    assert any(site.changed for site in course.sites)
    assert course.epochs[-1].loss < course.epochs[0].loss


class Stop(BaseException):
    """Stands for a process that ends."""


def stopping(after):
    def progress(done, of):
        if done == after:
            raise Stop

    return progress


@pytest.mark.parametrize("after", [1, 11, 31])
def test_interrupted_training_goes_on_to_the_same_result(digits_graph, batches, tmp_path, after):
    policy = bw.Policy.uniform(digits_graph.sites, 2, 4)
    whole, expected = digits_graph.copy(), outputs(digits_graph, batches)
    wanted = qat(whole, batches, policy, epochs=4, holdout=batches[:2])
    file = tmp_path / "training.pt"
    with pytest.raises(Stop):
        qat(digits_graph, batches, policy, epochs=4, holdout=batches[:2], checkpoint=file, progress=stopping(after))
    assert torch.equal(outputs(digits_graph.apply(bw.FLOAT), batches), expected)
    assert file.exists() == (after >= 9)  # an epoch has 8 batches; the last one is still running at its end
    torch.manual_seed(after)
    found = qat(digits_graph, batches, policy, epochs=4, holdout=batches[:2], checkpoint=file)
    assert found.epochs == wanted.epochs
    assert found.best == wanted.best
    assert torch.equal(outputs(digits_graph, batches), outputs(whole, batches))
    assert not file.exists()


def test_a_checkpoint_of_another_training_is_refused(digits_graph, batches, tmp_path):
    policy, file = bw.Policy.uniform(digits_graph.sites, 2, 4), tmp_path / "training.pt"
    with pytest.raises(Stop):
        qat(digits_graph, batches, policy, epochs=2, checkpoint=file, progress=stopping(9))
    with pytest.raises(InvalidInput, match="belongs to another training"):
        qat(digits_graph, batches, policy, epochs=2, learning_rate=0.02, checkpoint=file)
    file.write_bytes(b"nothing")
    with pytest.raises(InvalidInput, match="cannot be read"):
        qat(digits_graph, batches, policy, epochs=2, checkpoint=file)


def test_the_best_epoch_on_held_out_data_is_taken(digits_graph, batches):
    policy = bw.Policy.uniform(digits_graph.sites, 2, 4)
    found = qat(digits_graph, batches[2:], policy, epochs=10, holdout=batches[:2], learning_rate=0.02)
    late = found.epochs[8:]  # the steps are as they stay
    assert found.epochs[found.best - 1].distance == min(epoch.distance for epoch in late)
    verdict = bw.evaluate(digits_graph, policy, batches[:2])
    assert verdict.distance.value == pytest.approx(found.epochs[found.best - 1].distance, rel=1e-6)


def test_where_no_epoch_is_nearer_to_float_the_start_stays(digits_graph, batches):
    policy = bw.Policy.uniform(digits_graph.sites, 3, 4)
    digits_graph.apply(policy)
    repair(digits_graph, "gptq", batches)
    expected = outputs(digits_graph, batches)
    found = qat(digits_graph, batches[2:], epochs=1, learning_rate=1.0, holdout=batches[:2])
    assert found.best == 0
    assert found.epochs[0].distance > found.start
    assert "the start, which is kept" in found.notes[0]
    assert torch.equal(outputs(digits_graph, batches), expected)


def test_targets_count_only_where_they_are_asked_for(digits_graph, batches):
    policy = bw.Policy.uniform(digits_graph.sites, 2, 4)
    unlabelled = [(inputs, None) for inputs, _ in batches]
    alone = qat(digits_graph.copy(), batches, policy, epochs=1)
    assert alone.epochs == qat(digits_graph.copy(), unlabelled, policy, task="classification", epochs=1).epochs
    assert qat(digits_graph.copy(), batches, policy, epochs=1, labels=1.0).epochs[0].loss > alone.epochs[0].loss
    with pytest.raises(InvalidInput, match="needs targets"):
        qat(digits_graph, unlabelled, policy, task="classification", labels=0.5)
    with pytest.raises(InvalidInput, match="labels=0.5 needs a loss, and the task 'embedding' has none"):
        qat(digits_graph, batches, policy, task="embedding", labels=0.5)


class Encoder(nn.Module):
    """One block of a transformer, pooled; two outputs."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(6, 16)
        self.attention = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.mlp = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.head = nn.Linear(16, 3)

    def forward(self, x):
        x = self.embed(x)
        x = self.norm(x + self.attention(x, x, x, need_weights=False)[0])
        x = x + self.mlp(x)
        return {"mean": self.head(x.mean(1)), "tokens": x}


class Recurrent(nn.Module):
    """A recurrent layer and a linear one."""

    def __init__(self):
        super().__init__()
        self.lstm = nn.LSTM(6, 8, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


@pytest.mark.parametrize("network", [Encoder, Recurrent])
def test_networks_of_other_kinds_and_tasks(network):
    torch.manual_seed(0)
    model, x = network().eval(), torch.randn(96, 5, 6)
    graph = bw.calibrate(bw.capture(model, x[:2]), [(x, None)])
    policy = bw.Policy.uniform(graph.sites, 3, 6)
    with torch.no_grad():
        batches = [(part, model(part)) for part in x.split(16)]
    before = bw.evaluate(graph, policy, batches, task="regression")
    found = qat(graph, batches, policy, task="regression", epochs=16)
    after = bw.evaluate(graph, policy, batches, task="regression")
    assert after.distance.value < 0.8 * before.distance.value
    assert 0 <= found.float_left < 1


def test_as_a_repair_it_follows_gptq(digits_graph, batches, fresh):
    policy = bw.Policy.uniform(digits_graph.sites, 2, 4)
    digits_graph.apply(policy)
    repair(digits_graph, "gptq", batches)
    before = bw.evaluate(digits_graph, policy, fresh)
    report = repair(digits_graph, "qat", batches, epochs=3)
    assert bw.evaluate(digits_graph, policy, fresh).distance.value < before.distance.value
    assert digits_graph.repairs == ["gptq", "qat"]
    assert report.changes[0].after < report.changes[0].before
    with pytest.raises(InvalidInput, match="would undo the rounding that qat learned"):
        repair(digits_graph, "gptq", batches)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "epochs must be a whole number of at least 1, got 0"),
        ({"epochs": 1.5}, "epochs must be a whole number"),
        ({"learning_rate": 0}, "learning_rate must be above 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"labels": -1}, "labels must be 0 or more"),
    ],
)
def test_settings_that_cannot_be_used(digits_graph, batches, options, message):
    with pytest.raises(InvalidInput, match=message):
        qat(digits_graph, batches, bw.Policy.uniform(digits_graph.sites, 4, 4), **options)


def test_without_a_policy_or_data_nothing_is_trained(digits_graph, batches):
    with pytest.raises(InvalidInput, match="policy must say which widths"):
        qat(digits_graph, batches)
    with pytest.raises(InvalidData, match="empty"):
        qat(digits_graph, [], bw.Policy.uniform(digits_graph.sites, 4, 4), task="classification")
