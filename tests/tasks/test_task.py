from __future__ import annotations

import pytest
import torch

from bitwright.errors import InvalidData, InvalidInput
from bitwright.tasks import Classification
from bitwright.tasks.columns import Columns


def test_data_can_be_read_more_than_once():
    batch = (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    task = Classification((batch for _ in range(3)), [batch])
    assert len(list(task.calibration)) == len(list(task.calibration)) == 3


def test_bad_input_is_one_line():
    batch = (torch.zeros(2, 3), torch.zeros(2, dtype=torch.long))
    with pytest.raises(InvalidData, match="got a tensor; wrap it"):
        Classification(torch.zeros(2, 3), [batch])
    with pytest.raises(InvalidInput, match="metric must be a function .*got float"):
        Classification([batch], [batch], metric=0.5)
    with pytest.raises(InvalidInput, match="loss must be a function"):
        Classification([batch], [batch], loss="mse")


@pytest.mark.parametrize("shape", [(), (3,)])
def test_a_task_that_gives_no_value_for_each_sample_is_refused_with_the_name(shape):
    message = r"a task must give one value of 'right' for each sample, shape \(5, ...\), got shape"
    with pytest.raises(InvalidInput, match=message):
        Columns().add({"right": torch.zeros(shape)}, 5)
