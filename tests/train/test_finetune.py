"""Float networks trained further, by every strategy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bitwright as bw
from bitwright.errors import InvalidData, InvalidInput
from bitwright.train import STRATEGIES, adversarial


@pytest.fixture
def batches(digits_data):
    inputs, targets = digits_data[0]
    return [(inputs[i : i + 64], targets[i : i + 64]) for i in range(0, 512, 64)]


def network(batches):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(batches[0][0][0].numel(), 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 10)
    )


def loss_of(model, inputs, targets):
    with torch.no_grad():
        return float(nn.functional.cross_entropy(model.eval()(inputs), targets))


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_copy_learns_and_the_given_network_stays(batches, digits_data, name):
    model = network(batches)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    trained, epochs = bw.finetune(model, batches, strategy=name, learning_rate=0.05, epochs=4, holdout=[digits_data[1]])
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not trained.training
    best = min(epoch.distance for epoch in epochs)
    assert loss_of(trained, *digits_data[1]) == pytest.approx(best, rel=1e-5)
    assert best < 0.5 * loss_of(model, *digits_data[1])


def test_adversarial_training_withstands_attacks_better(batches, digits_data):
    inputs, targets = digits_data[1]
    under_attack = {}
    for name in ("standard", "adversarial?radius=0.3"):
        trained, _ = bw.finetune(network(batches), batches, strategy=name, learning_rate=0.05, epochs=6)
        lesson = lambda x, *wanted, model=trained: nn.functional.cross_entropy(model(x[0]), targets, reduction="none")  # noqa: E731
        losses = adversarial.function(lesson, (inputs,), targets, radius=0.3)
        under_attack[name] = float(losses.detach().mean())
    assert under_attack["adversarial?radius=0.3"] < 0.9 * under_attack["standard"]


class Stop(BaseException):
    """Stands for a process that ends."""


def test_interrupted_it_goes_on_to_the_same_result(batches, tmp_path):
    def progress(done, of):
        if done == 20:
            raise Stop

    whole, rows = bw.finetune(network(batches), batches, epochs=4, strategy="mixup")
    options = {"epochs": 4, "strategy": "mixup", "checkpoint": tmp_path / "state.pt"}
    with pytest.raises(Stop):
        bw.finetune(network(batches), batches, progress=progress, **options)
    found, again = bw.finetune(network(batches), batches, **options)
    assert again == rows
    assert all(torch.equal(value, found.state_dict()[name]) for name, value in whole.state_dict().items())


def test_it_stops_when_held_out_data_gets_no_better(batches, digits_data):
    inputs, targets = digits_data[1]
    wrong = [(inputs, (targets + 1) % 10)]  # the better the network, the greater the loss
    _, epochs = bw.finetune(network(batches), batches, epochs=20, learning_rate=0.05, holdout=wrong, patience=2)
    best = min(range(len(epochs)), key=lambda i: epochs[i].distance)
    assert len(epochs) == best + 3 < 20


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rate": 0.0}, "learning_rate must be above 0, got 0.0"),
        ({"weight_decay": -1.0}, "weight_decay must be 0 or more, got -1.0"),
        ({"patience": 0}, "patience must be a whole number of at least 1, got 0"),
    ],
)
def test_settings_that_cannot_be_used(batches, options, message):
    with pytest.raises(InvalidInput, match=message):
        bw.finetune(network(batches), batches, **options)


def test_without_targets_there_is_no_loss(batches):
    with pytest.raises(InvalidData, match="fine-tuning needs targets"):
        bw.finetune(network(batches), [inputs for inputs, _ in batches])
