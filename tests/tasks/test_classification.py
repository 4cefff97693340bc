from __future__ import annotations

import pytest
import torch

from bitwright.errors import InvalidData, InvalidInput
from bitwright.tasks import Classification, infer
from bitwright.tasks.classification import check_classes

TWO = torch.zeros(2, 3)


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (torch.tensor([0, 3]), r"between 0 and 2 \(the model has 3 outputs\), got 3"),
        (torch.tensor([-1, 2]), "got -1"),
        (torch.tensor([0.0, 1.0]), "must be class indices .integers., got torch.float32"),
        ([0, 1], "must be a tensor of class indices, got list"),
        (torch.zeros(2, 3, dtype=torch.long), r"shape \(2,\) for outputs of shape \(2, 3\), got \(2, 3\)"),
    ],
)
def test_targets_that_are_no_classes(targets, message):
    with pytest.raises(InvalidData, match=message):
        check_classes(TWO, targets)


@pytest.mark.parametrize(
    ("logits", "targets"),
    [
        (TWO, torch.tensor([0, 2])),
        (TWO, None),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4, dtype=torch.uint8)),
        (torch.zeros(4, 7, 7), torch.zeros(4, 7, dtype=torch.long)),
    ],
)
def test_targets_that_are_classes(logits, targets):
    check_classes(logits, targets)


def test_positions_that_do_not_count_may_hold_anything():
    logits, targets = torch.zeros(1, 3, 2), torch.tensor([[255, 1]])
    with pytest.raises(InvalidData, match="got 255"):
        check_classes(logits, targets)
    check_classes(logits, targets, targets != 255)


def test_classes_along_the_last_axis_are_told():
    outputs, targets = torch.zeros(4, 7, 20), torch.zeros(4, 7, dtype=torch.long)
    with pytest.raises(InvalidInput, match=r"classes must be axis 1 .* got shape \(4, 7, 20\) .*\'dense\?last=true\'"):
        check_classes(outputs, targets)
    check_classes(outputs.movedim(-1, 1), targets)


def test_outputs_of_different_widths_are_not_taken_for_one_another():
    outputs = {"features": torch.randn(4, 16), "logits": torch.randn(4, 3)}
    targets = torch.tensor([0, 1, 2, 0])
    with pytest.raises(InvalidInput, match=r"different numbers of classes: 'features' \(16\), 'logits' \(3\); name"):
        Classification().score(outputs, targets)
    chosen = Classification(output="logits").score(outputs, targets)
    assert torch.equal(chosen, Classification().score(outputs["logits"], targets))


def test_one_hot_targets_are_no_regression():
    logits, classes = torch.randn(5, 3), torch.tensor([0, 2, 1, 1, 0])
    one_hot = torch.nn.functional.one_hot(classes, 3).float()
    with pytest.raises(InvalidInput, match=r"look like one-hot classes, of shape \(5, 3\); give class numbers"):
        infer(logits, one_hot)
    assert infer(logits, one_hot + 0.1).name == "regression"
    assert infer(logits, classes).name == "classification"
