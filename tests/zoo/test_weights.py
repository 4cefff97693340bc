"""Weight files: round trips, the given weights on real images, and what is said when a file does not fit."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file, save_model

from bitwright import zoo
from bitwright.data import load_data
from bitwright.errors import InvalidInput
from bitwright.zoo import load_weights


def same(first: torch.nn.Module, second: torch.nn.Module) -> bool:
    a, b = first.state_dict(), second.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.mark.parametrize("factory", [zoo.resnet20, zoo.resnet18, zoo.mobilenet_v2, zoo.lenet1, zoo.nin, zoo.unet])
def test_round_trip_through_safetensors(factory, tmp_path):
    torch.manual_seed(1)
    saved = factory()
    save_file(saved.state_dict(), tmp_path / "weights.safetensors")
    loaded = factory(weights=tmp_path / "weights.safetensors")
    assert same(saved, loaded)
    assert not loaded.training
    assert saved.training


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".th"])
@pytest.mark.parametrize("wrapped", [False, True])
def test_round_trip_through_torch_save(suffix, wrapped, tmp_path):
    saved = zoo.lenet5()
    state = saved.state_dict()
    content = {"state_dict": {f"module.{key}": value for key, value in state.items()}} if wrapped else state
    torch.save(content, tmp_path / f"weights{suffix}")
    assert same(saved, zoo.lenet5(weights=str(tmp_path / f"weights{suffix}")))


def test_batch_counters_may_be_missing(tmp_path):
    saved = zoo.digits_net()
    state = {key: value for key, value in saved.state_dict().items() if "num_batches" not in key}
    save_file(state, tmp_path / "w.safetensors")
    assert same(saved, zoo.digits_net(weights=tmp_path / "w.safetensors"))


class Tied(torch.nn.Module):
    """A table of embeddings that is the last layer, too."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.head = torch.nn.Embedding(5, 3), torch.nn.Linear(3, 5, bias=False)
        self.head.weight = self.table.weight


def test_of_tied_weights_one_name_is_enough(tmp_path):
    saved = Tied()
    save_model(saved, tmp_path / "tied.safetensors")
    loaded = load_weights(Tied(), tmp_path / "tied.safetensors")
    assert same(saved, loaded)
    assert loaded.head.weight is loaded.table.weight
    untied = Tied()
    untied.head = torch.nn.Linear(3, 5, bias=False)
    with pytest.raises(InvalidInput, match=r"do not fit Tied: missing (head|table)\.weight$"):
        load_weights(untied, tmp_path / "tied.safetensors")


def test_a_file_that_does_not_fit_names_the_first_three(tmp_path):
    file = tmp_path / "small.safetensors"
    state = zoo.resnet20().state_dict()
    state["extra.weight"] = torch.zeros(2)
    del state["conv1.weight"]
    save_file(state, file)
    with pytest.raises(InvalidInput) as caught:
        zoo.resnet20(weights=file)
    assert str(caught.value) == (
        f"the weights in {file} do not fit CifarResNet: missing conv1.weight; unexpected extra.weight"
    )
    with pytest.raises(InvalidInput, match=r"missing conv1\.weight, layer1\.3\.conv1\.weight, .* and \d+ more"):
        zoo.resnet56(weights=file)


def test_a_wrong_shape_is_named(tmp_path):
    save_file(zoo.lenet1(num_classes=3).state_dict(), tmp_path / "three.safetensors")
    with pytest.raises(InvalidInput, match=r"wrong shape linear\.weight \[3, 192\] instead of \[10, 192\]"):
        zoo.lenet1(weights=tmp_path / "three.safetensors")


def test_weights_that_are_not_finite(tmp_path):
    state = zoo.lenet1().state_dict()
    state["conv2.bias"][0] = float("nan")
    save_file(state, tmp_path / "nan.safetensors")
    with pytest.raises(InvalidInput, match=r"nan\.safetensors are not finite: NaN or infinity in conv2\.bias"):
        zoo.lenet1(weights=tmp_path / "nan.safetensors")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("none.pt", None, r"no weight file at .*none\.pt"),
        ("w.bin", b"1", r"weights must be a \.safetensors or \.pt file, got .*w\.bin"),
        ("w.safetensors", b"rubbish", r"cannot read the weights in .*w\.safetensors: "),
        ("w.pt", b"rubbish", r"cannot read the weights in .*w\.pt: "),
        ("w.pt", b"", r"cannot read the weights in .*w\.pt: "),
    ],
)
def test_unusable_files(name, content, message, tmp_path):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(InvalidInput, match=message) as caught:
        zoo.lenet1(weights=tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_file_without_a_state_dict(tmp_path):
    torch.save([torch.zeros(1)], tmp_path / "list.pt")
    with pytest.raises(InvalidInput, match=r"list\.pt holds no state dict"):
        zoo.lenet1(weights=tmp_path / "list.pt")


def test_a_pickle_that_would_run_code_is_refused(tmp_path):
    torch.save(zoo.lenet1(), tmp_path / "model.pt")
    with pytest.raises(InvalidInput, match=r"cannot read the weights in .*model\.pt"):
        zoo.lenet1(weights=tmp_path / "model.pt")


def test_the_folder_of_weights_must_be_set_and_right(monkeypatch, tmp_path):
    monkeypatch.delenv("BITWRIGHT_WEIGHTS", raising=False)
    with pytest.raises(InvalidInput) as caught:
        zoo.resnet20_cifar10()
    assert str(caught.value) == (
        "BITWRIGHT_WEIGHTS is not set: set it to the folder that holds resnet20_cifar10.safetensors"
    )
    monkeypatch.setenv("BITWRIGHT_WEIGHTS", str(tmp_path))
    with pytest.raises(InvalidInput, match=r"BITWRIGHT_WEIGHTS=.* holds no file resnet56_cifar10\.safetensors"):
        zoo.resnet56_cifar10()


@pytest.mark.parametrize(
    ("factory", "correct"),
    [
        (zoo.resnet20_cifar10, 776),  # 91.73 % of 846
        (zoo.resnet56_cifar10, 789),  # 93.26 %
    ],
)
def test_the_given_weights_reach_their_accuracy(factory, correct):
    for variable in ("BITWRIGHT_WEIGHTS", "BITWRIGHT_DATA"):
        if not os.environ.get(variable):
            pytest.skip(f"{variable} is not set")
    folder = Path(os.environ["BITWRIGHT_DATA"]) / "cifar10"
    model, images = factory(), load_data(f"cifar10:{folder}").evaluation
    assert len(images) == 846
    with torch.no_grad():
        found = sum(int((model(x).argmax(dim=1) == y).sum()) for x, y in images.batches(128))
    assert found == correct
