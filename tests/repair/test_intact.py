from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

import bitwright as bw
from bitwright.errors import InvalidInput
from bitwright.repair import put_fitted, take_fitted


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(2)
    return torch.nn.Sequential(torch.nn.Conv2d(1, 3, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(48, 4))


@pytest.fixture(scope="module")
def images():
    return torch.randn(8, 1, 6, 6, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module", params=["channel", "group"])
def fitted(request, model, images):
    graph = bw.calibrate(bw.capture(model.eval(), images[:2]), [(images, None)])
    policy = bw.Policy.uniform(graph.sites, 4, 4)
    graph.apply(policy)
    if request.param == "group":
        bw.repair(graph, "granularity", [(images, None)], granularity="group", group_size=4)
    bw.repair(graph, "gptq", [(images, None)])
    return take_fitted(graph, policy, "r")


def first(array, value):
    made = np.array(array, dtype=np.result_type(array, value))
    made.reshape(-1)[0] = value
    return made


WRONG = {
    "a step of zero": ("scale/4/0.weight", lambda a: first(a, 0.0), "must be greater than 0 everywhere"),
    "a negative step": ("scale/4/1", lambda a: first(a, -0.5), "must be greater than 0 everywhere"),
    "a step too many": ("scale/4/1", lambda a: np.array([0.5, 0.5], a.dtype), "must have shape (2,), got ()"),
    "a zero point between": ("zero/4/1", lambda a: first(a, 0.5), "must hold whole numbers from 0 to 15"),
    "a zero point beyond": ("zero/4/1", lambda a: first(a, 16.0), "must hold whole numbers from 0 to 15"),
    "a wide grid": ("grid/4/1", lambda a: np.array([0, 16, 0]), "must be a range of 4-bit integers, got 0 to 16"),
    "a grid upside down": (
        "grid/4/1",
        lambda a: np.array([15, 0, 0]),
        "a range of 4-bit integers, got 15 to 0",
    ),
    "half a grid": ("grid/4/1", lambda a: a[:2], "must hold three whole numbers"),
    "no grid": ("grid/4/1", lambda a: None, "'grid/4/1' is missing"),
    "an integer beyond": ("integers/4/0.weight", lambda a: first(a, 8), "must hold whole numbers from -8 to 7"),
    "integers of another shape": ("integers/4/0.weight", lambda a: a.reshape(-1), "must have shape (3, 1, 3, 3)"),
    "integers that are none": ("integers/4/0.weight", lambda a: a + 0.0, "must hold int8 or int16, got float64"),
    "steps of another type": ("scale/4/1", lambda a: a.astype(np.float64), "must hold float32, got float64"),
    "a bias of another shape": ("bias/4/bias_0", lambda a: a[:2], "'bias/4/bias_0' must have shape (3,), got (2,)"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_what_no_graph_can_have_is_one_line(wrong, fitted, model, images):
    name, change, words = WRONG[wrong]
    arrays = {key: value for key, value in fitted.arrays.items() if key != name}
    if (made := change(fitted.arrays[name])) is not None:
        arrays[name] = made
    with pytest.raises(InvalidInput) as caught:
        put_fitted(bw.capture(model, images[:2]), replace(fitted, arrays=arrays))
    line = str(caught.value)
    assert words in line
    assert "delete it to have the recipe fitted again" in line
    assert "\n" not in line


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"sites": {"nowhere": {"granularity": ["tensor", None, None]}}}, "it has the site 'nowhere'"),
        (
            {"sites": {"0.weight": {"granularity": ["channel", 4, None]}}},
            "axis of site '0.weight' must be one",
        ),
        ({"sites": {"0.weight": {"granularity": ["rows", 0, None]}}}, "granularity must be 'tensor', 'channel' or"),
        ({"sites": {"0.weight": {}}}, "'granularity' of site '0.weight' must be a list of three, got None"),
        ({"sites": []}, "sites must be"),
        ({"repairs": "cle"}, "repairs must be"),
        ({"added biases": {"bias_9": 99}}, "the graph cannot be given the bias bias_9"),
        ({"added biases": {"bias_9": "1e99"}}, "added"),
    ],
)
def test_what_stands_beside_the_arrays_is_checked(changes, words, fitted, model, images):
    with pytest.raises(InvalidInput) as caught:
        put_fitted(bw.capture(model, images[:2]), replace(fitted, about={**fitted.about, **changes}))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
