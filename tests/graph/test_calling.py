"""Models called by name, with one dictionary, with outputs of any structure: as Hugging Face's are."""

from __future__ import annotations

import copy
from collections import OrderedDict, UserDict, namedtuple
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from bitwright.data.adopt import as_dataset
from bitwright.debug import debug
from bitwright.errors import BitwrightWarning, CaptureError, InvalidData, InvalidInput
from bitwright.graph import calibrate, capture
from bitwright.graph.calling import Named
from bitwright.runtimes import export, parity, predict
from bitwright.sensitivity import sensitivity
from bitwright.tasks import Classification, Language, evaluate
from bitwright.values import Policy

WORDS, CLASSES = 20, 3
IDS = torch.randint(1, WORDS, (6, 5), generator=torch.Generator().manual_seed(1))
MASK = (torch.arange(5) < torch.tensor([5, 4, 3, 5, 2, 5])[:, None]).long()
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@dataclass
class Output(OrderedDict):
    """Looks like a ModelOutput: a mapping and a dataclass at once."""

    loss: Tensor | None = None
    logits: Tensor | None = None
    hidden: Tensor | None = None

    def __post_init__(self):
        self.update({name: getattr(self, name) for name in ("loss", "logits", "hidden")})


class Encoder(nn.Module):
    """Looks like a classifier of Hugging Face's."""

    def __init__(self):
        super().__init__()
        self.table, self.inner, self.head = nn.Embedding(WORDS, 8), nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, input_ids=None, attention_mask=None, labels=None, use_cache=True):
        if input_ids is None:
            raise ValueError("You have to specify input_ids")
        hidden = torch.relu(self.inner(self.table(input_ids)))
        if attention_mask is not None:
            hidden = hidden * attention_mask.unsqueeze(-1)
        logits = self.head(hidden.mean(1))
        loss = None if labels is None else nn.functional.cross_entropy(logits, labels)
        found = Output(loss, logits, hidden)
        if use_cache:
            found["cache"] = object()
        return found


torch.utils._pytree.register_pytree_node(
    Output,
    lambda given: ([v for v in given.values() if v is not None], [k for k, v in given.items() if v is not None]),
    lambda values, names: Output(**dict(zip(names, values, strict=True))),
)


class Translator(Encoder):
    """Makes the decoder's inputs of the labels, as T5 does."""

    def forward(self, input_ids, attention_mask=None, decoder_input_ids=None, labels=None):
        if decoder_input_ids is None:
            start = input_ids if labels is None else labels
            decoder_input_ids = torch.cat([torch.zeros_like(start[:, :1]), start[:, :-1].clamp_min(0)], 1)
        state = torch.relu(self.inner(self.table(input_ids))).mean(1, keepdim=True)
        logits = self.inner(self.table(decoder_input_ids) + state) @ self.table.weight.t()
        return {"loss": logits.sum(), "logits": logits}


def batch(**entries):
    return {"input_ids": IDS, "attention_mask": MASK, **entries}


def test_arguments_by_name_and_a_cache_left_off():
    model = Encoder().eval()
    graph = capture(model, batch(labels=LABELS), returns="logits")
    assert graph.calling.names == ("input_ids", "attention_mask")
    expected = model(IDS, MASK, use_cache=False).logits
    for given in ((IDS, MASK), ({"attention_mask": MASK, "input_ids": IDS},)):
        torch.testing.assert_close(graph(*given), expected)
    torch.testing.assert_close(graph(attention_mask=MASK, input_ids=IDS), expected)
    assert "inner.weight" in graph.sites.names


def test_without_a_choice_all_outputs_are_kept_by_name():
    graph = capture(Encoder().eval(), batch())
    assert list(graph(IDS, MASK)) == ["logits", "hidden"]


def test_what_computes_another_output_alone_is_left_out():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 2), nn.Linear(4, 3)

        def forward(self, x):
            return {"a": self.first(x), "b": [self.second(x), x]}

    model, x = Two().eval(), torch.randn(3, 4)
    assert "first.weight" not in capture(model, x, returns="b.0").sites.names
    torch.testing.assert_close(capture(model, x, returns="b.0")(x), model.second(x))
    assert list(capture(model, x, returns=["b.1", "a"])(x)) == ["b.1", "a"]
    with pytest.raises(InvalidInput, match=r"returns must name outputs of the network, a, b\.0, b\.1, got 'b'"):
        capture(model, x, returns="b")


def test_batches_are_dictionaries_with_labels_in_any_order():
    graph = capture(Encoder().eval(), batch(), returns="logits")
    parts = [slice(i, i + 2) for i in (0, 2, 4)]
    loader = [{"labels": LABELS[p], "attention_mask": MASK[p], "input_ids": IDS[p]} for p in parts]
    calibrate(graph, loader)
    policy = Policy.uniform(graph.sites, 8, 8)
    found = evaluate(graph, policy, loader)
    assert found.task == Classification.name
    plain = evaluate(graph, policy, [((IDS[p], MASK[p]), LABELS[p]) for p in parts])
    assert found.figures == plain.figures


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"input_ids": IDS}, "captured with, input_ids, attention_mask, got input_ids"),
        (batch(token_type_ids=IDS), "got input_ids, attention_mask, token_type_ids"),
    ],
)
def test_batches_with_other_names(given, message):
    graph = capture(Encoder().eval(), batch(), returns="logits")
    with pytest.raises(InvalidData, match=message):
        calibrate(graph, [given])


def test_an_input_that_the_model_does_not_take():
    with pytest.raises(InvalidInput, match=r"takes no input 'token_type_ids' \(it takes input_ids, .*leave it out"):
        capture(Encoder().eval(), batch(token_type_ids=IDS))


def test_a_decoder_is_forced_by_the_labels():
    targets = torch.randint(1, WORDS, (6, 4))
    model = Translator().eval()
    with pytest.warns(BitwrightWarning, match="the output loss is a single number for a whole batch and is left out"):
        graph = capture(model, batch(labels=targets))
    assert graph.calling.names == ("input_ids", "attention_mask", "labels")
    loader = [batch(labels=targets)]
    calibrate(graph, loader)
    policy = Policy.uniform(graph.sites, 8, 8)
    verdict = evaluate(graph, policy, loader, Language())
    loss = nn.functional.cross_entropy(model(IDS, labels=targets)["logits"].flatten(0, 1), targets.flatten())
    assert verdict.figures["perplexity"].reference.value == pytest.approx(loss.exp().item(), rel=1e-5)


def test_the_exported_file_takes_its_inputs_by_name(tmp_path):
    graph = calibrate(capture(Encoder().eval(), batch(), returns="logits"), [batch()])
    path = tmp_path / "model.onnx"
    export(graph, path, policy=Policy.uniform(graph.sites, 8, 8))
    assert parity(graph, path, [batch(labels=LABELS)]).exact_difference == 0
    swapped = {"attention_mask": MASK, "input_ids": IDS, "labels": LABELS}
    assert torch.equal(predict(path, [swapped]), predict(path, [((IDS, MASK), None)]))


def test_one_dictionary_as_the_only_argument():
    class Whole(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(4, 2)

        def forward(self, data):
            return self.layer(data["left"]) - data["right"]

    model, left, right = Whole().eval(), torch.randn(3, 4), torch.randn(3, 2)
    graph = capture(model, {"left": left, "right": right})
    torch.testing.assert_close(graph(right=right, left=left), model({"left": left, "right": right}))
    assert "left" in graph.sites.names
    torch.testing.assert_close(graph.calling.run(model, (left, right)), graph(left, right))


def test_arguments_that_are_no_tensors_stay_the_same():
    class Scaled(nn.Linear):
        def forward(self, x, factor=1.0, mode=None):
            return super().forward(x) * factor if mode is None else x

    model, x = Scaled(4, 2).eval(), torch.randn(3, 4)
    graph = capture(model, {"x": x, "factor": 3.0, "mode": None})
    torch.testing.assert_close(graph(x), model(x, factor=3.0))


Pair = namedtuple("Pair", "one two")


@dataclass
class Plain:
    one: Tensor
    two: Tensor | None = None


@pytest.mark.parametrize("kind", [Pair, Plain])
def test_named_tuples_and_dataclasses(kind):
    class Returns(nn.Linear):
        def forward(self, x):
            return kind(super().forward(x), x)

    model, x = Returns(4, 2).eval(), torch.randn(3, 4)
    graph = capture(model, x).copy()
    found = graph(x)
    one = found["one"] if kind is Plain else found.one
    torch.testing.assert_close(one, model(x).one)
    torch.testing.assert_close(capture(model, x, returns="one")(x), model(x).one)


def test_an_argument_that_has_a_name_alone():
    class Masked(nn.Linear):
        def forward(self, x, *, mask):
            return super().forward(x) * mask

    model, x, mask = Masked(4, 2).eval(), torch.randn(3, 4), torch.rand(3, 1)
    with pytest.raises(InvalidInput, match=r"'mask' must be given by its name: pass a dictionary, \{'x': .*'mask': "):
        capture(model, (x, mask))
    torch.testing.assert_close(capture(model, {"mask": mask, "x": x})(x, mask), model(x, mask=mask))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_captured_in_float32(dtype):
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).to(dtype).eval()
    x = torch.randn(3, 4)
    for given in (x.to(dtype), x):
        with pytest.warns(BitwrightWarning, match="is in half precision and is captured in float32"):
            graph = capture(model, given)
        torch.testing.assert_close(graph(x), copy.deepcopy(model).float()(x))
    assert model[0].weight.dtype == dtype


def test_names_live_through_a_copy():
    one = Named({"a": IDS, "b": MASK})
    assert copy.copy(one).names == ("a", "b")
    assert copy.deepcopy(one).names == ("a", "b")


class TestLengths:
    """Batches of several lengths."""

    def graph(self, model=None):
        short = {"input_ids": IDS[:, :3], "attention_mask": MASK[:, :3]}
        return capture(model or Encoder().eval(), batch(), returns="logits", others=[short])

    def loader(self):
        parts = ((slice(0, 2), 5), (slice(2, 4), 3), (slice(4, 6), 4))
        return [{"input_ids": IDS[p, :n], "attention_mask": MASK[p, :n], "labels": LABELS[p]} for p, n in parts]

    def test_any_length_gives_what_the_model_gives(self):
        model = Encoder().eval()
        graph = self.graph(model)
        for length in (2, 3, 5):
            ids, mask = IDS[:, :length], MASK[:, :length]
            torch.testing.assert_close(graph(ids, mask), model(ids, mask, use_cache=False).logits)
        longer = torch.cat([IDS, IDS], 1)
        torch.testing.assert_close(graph(longer, longer * 0 + 1), model(longer, longer * 0 + 1).logits)

    def test_sites_and_costs_are_those_of_the_example(self):
        free, fixed = self.graph(), capture(Encoder().eval(), batch(), returns="logits")
        assert [(s.name, s.shape) for s in free.sites] == [(s.name, s.shape) for s in fixed.sites]
        assert free.sites.operations == fixed.sites.operations

    def test_through_everything(self, tmp_path):
        graph, loader = calibrate(self.graph(), self.loader()), self.loader()
        policy = Policy.uniform(graph.sites, 8, 8)
        table = sensitivity(graph, loader)
        assert len(table.sites) == len(graph.sites)
        apart = [evaluate(graph, policy, [part]).loss.value for part in loader]
        assert evaluate(graph, policy, loader).loss.value == pytest.approx(sum(apart) / 3)
        export(graph, tmp_path / "model.onnx", policy=policy)
        found = parity(graph, tmp_path / "model.onnx", loader)
        assert (found.samples, found.exact_difference) == (6, 0)

    def test_other_sizes_stay_as_they_were(self):
        with pytest.raises(InvalidInput, match=r"must have shape \(batch, any\), got \(6,\); capture the model again"):
            self.graph()(IDS[:, 0], MASK)
        with pytest.raises(InvalidInput, match=r"others must have|must have the axes of example_inputs, \(6, 5\), "):
            capture(Encoder().eval(), batch(), others=[{"input_ids": IDS[0], "attention_mask": MASK[0]}])

    def test_a_model_that_fixes_the_length(self):
        class Fixed(nn.Linear):
            def forward(self, x):
                return super().forward(x).reshape(len(x), 10)

        with pytest.raises(CaptureError, match=r"the code fixes the size of axis 1 of x: .*pad all samples to one"):
            capture(Fixed(4, 2).eval(), torch.randn(3, 5, 4), others=[torch.randn(3, 7, 4)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.filterwarnings("ignore:the model is in half precision")
def test_the_debugging_flow_compares_the_kept_outputs_with_the_model(dtype):
    model = Encoder().eval().to(dtype)
    loader = [batch(labels=LABELS)]
    graph = calibrate(capture(model, batch(), returns="logits"), loader)
    found = debug(graph, Classification(loader, loader), policy=Policy.uniform(graph.sites, 8, 8), model=model)
    assert any(row.label == "graph against model" for step in found.steps for row in step.measured)


def test_batches_may_be_any_mapping():
    graph = capture(Encoder().eval(), UserDict(batch(labels=LABELS)), returns="logits")
    loader = [UserDict(batch(labels=LABELS))]
    calibrate(graph, loader)
    found = evaluate(graph, Policy.uniform(graph.sites, 8, 8), loader)
    assert found.samples == len(IDS)
    dataset = as_dataset(loader, "p")
    assert list(dataset.read(1, 3)[0]) == ["input_ids", "attention_mask", "labels"]
    assert torch.equal(dataset.read(1, 3)[1], LABELS[1:3])
