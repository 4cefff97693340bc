from __future__ import annotations

import copy

import pytest
import torch

import bitwright as bw
from bitwright.debug import debug
from bitwright.debug.case import Case
from bitwright.debug.mending import Mending, fits, without_replaced
from bitwright.debug.state import State
from bitwright.debug.steps_whole import float_sanity
from bitwright.debug.words import change, listed, named, outliers_of
from bitwright.session import Samples, Session
from bitwright.settings import Settings
from bitwright.tasks import Classification
from bitwright.tasks.classification import ACCURACY, LOSS
from bitwright.values import Policy
from bitwright.values.recipe import Action, Recipe


@pytest.fixture(scope="module")
def graph(digits_model, digits_data):
    return bw.capture(digits_model, digits_data[0][0][:2])


def mending(graph, task, policy, ranges="mse"):
    samples = Samples.of(task.calibration, task.evaluation, 128)
    session = Session(graph, task, samples, Settings(ranges=ranges))
    return Mending(Case(session, 0.5, {}), State(Recipe(policy, ranges)))


def ranges_by(method):
    return Action("ranges", {"kind": "activation", "method": method})


def test_the_best_of_alternatives_is_kept_alone(graph, digits_task):
    mine = mending(graph, digits_task, Policy.uniform(graph.sites, None, 3), "minmax")
    start = mine.distance
    actions = [ranges_by("minmax"), ranges_by("mse"), Action("repair", {"name": "bias", "methd": 1})]
    assert mine.attempt_one_of(actions)
    before, minmax, mse, refused = mine.rows
    assert before.distance == start
    assert not minmax.kept
    assert mse.kept
    assert refused.note.startswith("refused: repair 'bias' has no option 'methd'")
    assert mine.recipe.actions == (ranges_by("mse"),)
    assert mine.distance == mse.distance < start
    assert not mine.attempt_one_of([])


def test_what_a_later_action_makes_needless_is_dropped(graph, digits_task):
    mine = mending(graph, digits_task, Policy({"linear.weight": 2, "relu": 3}), "minmax")
    assert mine.attempt(Action("bits", {"site": "relu", "bits": 4}))
    assert mine.attempt(Action("bits", {"site": "linear.weight", "bits": 8}))
    mine.kept.insert(0, ranges_by("minmax"))  # as good as nothing
    mine.recipe = Recipe(mine.recipe.target, "minmax", (ranges_by("minmax"), *mine.recipe.actions))
    mine.drop_needless()
    assert [str(action) for action in mine.recipe.actions] == ["relu at 4 bits", "linear.weight at 8 bits"]
    assert [row.kept for row in mine.rows if row.label.startswith("without")] == [True, False]


def test_a_fit_takes_the_place_of_the_one_before_it(graph, digits_task):
    mine = mending(graph, digits_task, Policy.uniform(graph.sites, 2, 8), "minmax")
    bias, gptq = (Action("repair", {"name": name}) for name in ("bias", "gptq"))
    assert mine.attempt(bias)
    assert mine.attempt(gptq)
    assert mine.recipe.actions == (gptq,)
    assert mine.kept == [gptq]
    assert [row.kept for row in mine.rows] == [None, False, True]
    alone = mending(graph, digits_task, Policy.uniform(graph.sites, 2, 8), "minmax")
    alone.attempt(gptq)
    assert alone.distance == mine.distance


def test_what_was_kept_gives_way_to_something_better_from_the_start(graph, digits_task):
    mine = mending(graph, digits_task, Policy({"linear.weight": 2, "relu": 3}), "minmax")
    start = mine.recipe
    assert mine.attempt(Action("bits", {"site": "relu", "bits": 4}))
    worse = mine.distance
    assert not mine.instead(start, [Action("bits", {"site": "relu", "bits": 3})])
    assert [str(action) for action in mine.recipe.actions] == ["relu at 4 bits"]
    assert mine.instead(start, [Action("bits", {"site": "linear.weight", "bits": 8})])
    assert [str(action) for action in mine.recipe.actions] == ["linear.weight at 8 bits"]
    assert mine.kept == list(mine.recipe.actions)
    assert mine.distance < worse
    assert [row.label for row in mine.rows if row.kept] == ["linear.weight at 8 bits"]


def test_only_what_is_in_the_recipe_is_said_to_be_kept(graph, digits_task):
    mine = mending(graph, digits_task, Policy({"linear.weight": 2, "relu": 3}), "minmax")
    assert mine.attempt(Action("bits", {"site": "relu", "bits": 4}))
    assert mine.attempt(Action("bits", {"site": "relu", "bits": 8}))
    assert mine.kept == list(mine.recipe.actions)
    assert [row.label for row in mine.rows if row.kept] == ["relu at 8 bits"]


class Normalized(torch.nn.Module):
    """A layer norm with a few huge channels that linear layers read with weights that much smaller."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.stem = torch.nn.Linear(64, 32)
        self.norm = torch.nn.LayerNorm(32)
        self.hidden = torch.nn.Linear(32, 64)
        self.head = torch.nn.Linear(64, 10)

    def forward(self, x):
        x = self.norm(self.stem(x.flatten(1)))
        return 4 * self.head(torch.relu(self.hidden(x)))


def test_a_layer_norm_with_outliers_in_a_few_channels_ends_in_smoothquant_alone(digits_data):
    """Its range alone cannot mend it: the huge channels carry as much as the others."""
    model = Normalized().eval()
    with torch.no_grad():
        factors = torch.ones(32)
        factors[[3, 11, 20, 27]] = 300.0
        model.norm.weight.mul_(factors)
        model.norm.bias.mul_(factors)
        model.hidden.weight.div_(factors)
        labels = [model(x).argmax(1) for x, _ in digits_data]
    (x, _), (test, _) = digits_data
    task = Classification([(x[:256], labels[0][:256])], [(test, labels[1])])
    graph = bw.capture(model, x[:2])
    findings = debug(graph, task, 5.0, weights=8, activations=8, model=model)
    fourth = findings.step(4)
    assert fourth.conclusion.startswith("The worst activation is norm")
    assert any(row.label.startswith("range") and row.distance is not None for row in fourth.measured)
    assert [str(action) for action in findings.recipe.actions] == ["repair smooth"]
    assert findings.outcome == "holds"


def test_uneven_channels_in_front_of_the_activations_end_in_equalization_alone(digits_model, digits_task, digits_data):
    """Scales per channel hide the weights; the activations collapse at several sites."""
    model = copy.deepcopy(digits_model)
    with torch.no_grad():
        for block, channel, factor in ((model.layer1, 3, 400), (model.layer2, 5, 800)):
            block.bn1.weight[channel] *= factor
            block.bn1.bias[channel] *= factor
            block.conv2.weight[:, channel] /= factor
    graph = bw.capture(model, digits_data[0][0][:2])
    findings = debug(graph, digits_task, 2.0, activations=6, model=model)
    assert findings.step(2).at_fault == ("activation",)
    assert findings.step(2).verdict.accuracy_change.value < -0.02
    assert findings.outcome == "holds"
    assert [str(action) for action in findings.recipe.actions] == ["repair cle (activations=True)"]
    assert "The channels were uneven, most of all at layer" in findings.step(4).conclusion


def test_outliers_are_described_where_there_are_any(outlier_model, digits_task, digits_data):
    graph = bw.calibrate(bw.capture(outlier_model, digits_data[0][0][:2]), digits_task.calibration)
    said = outliers_of(graph, "layer1.relu1")
    assert said.startswith(" It has outliers: 90% of its values lie within ")
    assert "the largest reaches" in said
    assert outliers_of(graph, "layer2.relu1") == ""
    assert outliers_of(graph, "linear.weight") == ""


def test_a_drop_is_told_with_enough_digits_to_see_whether_the_target_holds():
    assert change(0.4321, 0.5, ACCURACY) == "-0.43 points"
    assert change(100 * 3 / 597, 0.5, ACCURACY) == "-0.503 points"
    assert change(0.5, 0.5, ACCURACY) == "-0.50 points"
    assert change(-0.17, 0.0, ACCURACY) == "+0.17 points"
    assert change(2.0, 0.5, LOSS) == "+2.00 %"
    assert change(0.0, 0.5, ACCURACY) == "0 points"


def test_actions_in_words():
    cle = Action("repair", {"name": "cle", "activations": True})
    limits = Action("limits", {"site": "relu", "low": 0.0, "high": 2.5})
    assert named(cle) == "cross-layer equalization (repair cle (activations=True))"
    assert named(limits) == "the range 0 to 2.5 at relu"
    assert listed([cle, limits]) == f"{named(cle)}; {named(limits)}"
    assert listed([limits] * 6).endswith("; and 3 more")


def test_a_float_network_that_only_guesses_is_named_in_step_1(digits_model, digits_task, digits_data):
    model = copy.deepcopy(digits_model)
    with torch.no_grad():
        model.linear.weight.zero_()
        model.linear.bias.copy_(torch.arange(10.0))
    task = Classification(digits_task.calibration[:1], digits_task.evaluation)

    def concluded(network):
        graph = bw.capture(network, digits_data[0][0][:2])
        mine = mending(graph, task, Policy.uniform(graph.sites, 8, 8))
        return float_sanity(mine.case, State(mine.recipe), network).conclusion

    assert "is hardly better than always naming the most frequent class" in concluded(model)
    assert "most frequent class" not in concluded(digits_model)


def test_what_a_later_fit_finds_anew_is_left_out():
    bare = Recipe(Policy({"a": 4}, "0123")).then("repair", name="cle")
    recipe = bare.then("repair", name="bias")
    bias, gptq, adaround = (Action("repair", {"name": name}) for name in ("bias", "gptq", "adaround"))
    assert without_replaced(recipe, gptq) == bare
    assert without_replaced(bare, gptq) == bare
    assert without_replaced(recipe.then("repair", name="gptq"), adaround) == bare
    assert without_replaced(recipe, bias) == recipe
    assert without_replaced(recipe, Action("bits", {"site": "a", "bits": 8})) == recipe
    assert [bool(fits(action)) for action in (bias, gptq, adaround, bare.actions[0])] == [True, True, True, False]
