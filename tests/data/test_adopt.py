"""Data that a user's own code makes."""

from __future__ import annotations

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch.utils.data import (
    DataLoader,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from bitwright.data import DataSets, as_data, as_dataset, load_data
from bitwright.errors import InvalidData, InvalidInput

X = torch.arange(20.0).reshape(10, 2)
Y = torch.arange(10)


class Numbers(IterableDataset):
    def __iter__(self):
        return iter([(X[i], Y[i]) for i in range(10)])


class FreshBatches:
    """Gives batches of 3 each time it is iterated over, and counts how often."""

    passes = 0

    def __iter__(self):
        self.passes += 1
        return ((X[i : i + 3], Y[i : i + 3]) for i in range(0, 10, 3))


def generator():
    yield X[:4], Y[:4]
    yield X[4:], Y[4:]


FORMS = {
    "tensors": lambda: (X, Y),
    "arrays": lambda: (X.numpy(), Y.numpy()),
    "samples": lambda: TensorDataset(X, Y),
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=3),
    "loader that drops": lambda: DataLoader(TensorDataset(X, Y), batch_size=4, drop_last=True),
    "loader of a stream": lambda: DataLoader(Numbers(), batch_size=4),
    "loader without batching": lambda: DataLoader([(X[:5], Y[:5]), (X[5:], Y[5:])], batch_size=None),
    "list of batches": lambda: [(X[:1], Y[:1]), (X[1:8], Y[1:8]), [X[8:], Y[8:]]],
    "own iterable": FreshBatches,
    "generator": generator,
    "list of numpy batches": lambda: [(X[:7].numpy(), Y[:7].tolist()), (X[7:].numpy(), Y[7:].tolist())],
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_gives_the_same_batches(form):
    part = as_dataset(FORMS[form](), "part")
    assert len(part) == 10
    for batch_size, limit in ((4, None), (3, 7), (100, None), (1, 2)):
        batches = part.batches(batch_size, limit)
        for _ in range(2):
            read = list(batches)
            size = min(10, limit or 10)
            assert [len(x) for x, _ in read] == [min(batch_size, size - i) for i in range(0, size, batch_size)]
            assert torch.equal(torch.cat([x for x, _ in read]), X[:size])
            assert torch.equal(torch.cat([y for _, y in read]), Y[:size])
            assert len(batches) == len(read)
    inputs, targets = part.read(2, 9)
    assert torch.equal(inputs, X[2:9])
    assert torch.equal(targets, Y[2:9])
    assert part[-1][1].item() == 9
    assert part.name == "part"
    assert part.classes is None
    assert part.fingerprint() == as_dataset(FORMS[form](), "part").fingerprint()


def test_fingerprints_differ_with_the_content():
    for form in (lambda x: (x, Y), lambda x: TensorDataset(x, Y), lambda x: [(x, Y)]):
        changed = X.clone()
        changed[3, 1] = 5
        assert as_dataset(form(X), "p").fingerprint() != as_dataset(form(changed), "p").fingerprint()


def test_every_sample_counts_for_the_fingerprint():
    """One label that was set right among many samples makes other data, or stale figures would be shown."""
    inputs, targets = torch.zeros(300, 2), torch.zeros(300, dtype=torch.long)
    first = as_dataset(TensorDataset(inputs, targets), "p").fingerprint()
    corrected = targets.index_fill(0, torch.tensor(101), 1)
    assert as_dataset(TensorDataset(inputs, corrected), "p").fingerprint() != first


def test_a_shuffling_loader_gets_one_order_for_good():
    def order() -> list[int]:
        loader = DataLoader(TensorDataset(X, Y), batch_size=3, shuffle=True)
        return [int(y) for _, batch in as_dataset(loader, "p").batches(4) for y in batch]

    assert order() == order()
    assert sorted(order()) == list(range(10))
    assert order() != list(range(10))


def test_a_sampler_of_a_loader_is_kept():
    loader = DataLoader(TensorDataset(X, Y), batch_size=2, sampler=SubsetRandomSampler([1, 3, 5]))
    part = as_dataset(loader, "p")
    first = [int(y) for _, y in part]
    assert sorted(first) == [1, 3, 5]
    assert [int(y) for _, y in part] == first


def test_collate_of_a_loader_is_used():
    loader = DataLoader(
        TensorDataset(X, Y),
        collate_fn=lambda samples: (torch.stack([x for x, _ in samples]) * 2, torch.stack([y for _, y in samples])),
    )
    assert torch.equal(as_dataset(loader, "p").read(0, 10)[0], X * 2)


def test_passes_over_an_iterable_are_few():
    source = FreshBatches()
    part = as_dataset(source, "p")
    list(part.batches(4))
    list(part.batches(4))
    assert source.passes == 3  # one to count, two to read


def test_reading_stops_at_the_limit():
    given = []

    class Counted:
        def __iter__(self):
            for start in range(0, 10, 2):
                given.append(start)
                yield X[start : start + 2], Y[start : start + 2]

    part = as_dataset(Counted(), "p")
    len(part)
    given.clear()
    list(part.batches(3, limit=4))
    assert given == [0, 2]


def test_data_of_a_pair_and_of_an_object():
    for data in (((X, Y), DataLoader(TensorDataset(X, Y))), [(X, Y), (X, Y)]):
        sets = as_data(data)
        assert isinstance(sets, DataSets)
        assert (len(sets.calibration), len(sets.evaluation)) == (10, 10)
        assert sets.evaluation.name == "evaluation data"
    sets = as_data(SimpleNamespace(calibration=[(X, Y)], evaluation=[(X[:2], Y[:2])]))
    assert (len(sets.calibration), len(sets.evaluation)) == (10, 2)
    digits = load_data("digits?limit=3")
    assert as_data(digits) is digits
    assert as_data((digits.calibration, digits.evaluation)).calibration is digits.calibration


@pytest.mark.parametrize("data", [None, X, [(X, Y)], (1, 2, 3), "digits", DataLoader(TensorDataset(X, Y))])
def test_data_of_no_known_form(data):
    with pytest.raises(InvalidInput, match=r"data must be a pair \(calibration, evaluation\) or have .calibration"):
        as_data(data)


@pytest.mark.parametrize("part", [None, 3, "digits", X, np.zeros(3)])
def test_part_of_no_known_form(part):
    with pytest.raises(InvalidInput, match=r"calibration data must give batches \(inputs, targets\), got "):
        as_data((part, part))


def test_a_stream_of_samples_needs_a_loader():
    with pytest.raises(InvalidInput, match="is an IterableDataset, .*wrap it in a DataLoader"):
        as_dataset(Numbers(), "p")


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        ([], "p has no samples"),
        ([X], r"a batch of p must be a pair \(inputs, targets\), .* or a dictionary of tensors by name, got Tensor"),
        ([(X, Y, Y)], "must be a pair .* got 3 values"),
        ([{"x": X, "text": ["a"] * 10}], "inputs must be tensors, got a list for 'text'; leave it out"),
        ([{"x": X, "labels": Y[:4]}], "must all have the same number of samples, got 10 and 4"),
        ([((X, X[:4]), Y)], "the inputs of p must all have the same number of samples, got 10 and 4"),
        ([(X[:0], Y[:0])], "a batch of p has no samples"),
        ([(X, Y[:3])], "a batch of p has 10 inputs and 3 targets"),
        ([(X, Y > 3)], "the targets of p must be integers .* got bool"),
        ([(X, Y.float()), (X, Y / 0)], "the targets of p hold NaN or infinity, first in sample 10"),
        ([(X, Y), (X / 0, Y)], "the inputs of p hold NaN or infinity, first in sample 10"),
        ([(X, Y), (X, Y - 1)], "must be at least 0, got -1 in sample 10"),
    ],
)
def test_bad_batches(batches, message):
    with pytest.raises(InvalidData, match=message):
        list(as_dataset(batches, "p").batches(64))


def test_an_empty_torch_dataset():
    with pytest.raises(InvalidData, match="p has no samples"):
        as_dataset(TensorDataset(X[:0], Y[:0]), "p")


SEVERAL = {
    "batches": lambda: [((X[:4], Y[:4]), Y[:4]), ((X[4:], Y[4:]), Y[4:])],
    "one batch": lambda: ((X, Y), Y),
    "loader": lambda: DataLoader([((X[i], Y[i]), Y[i]) for i in range(10)], batch_size=4),
    "torch data set": lambda: Several(),
}


class Several(torch.utils.data.Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return (X[index], Y[index]), Y[index]


@pytest.mark.parametrize("form", SEVERAL)
def test_several_inputs(form):
    part = as_dataset(SEVERAL[form](), "p")
    assert len(part) == 10
    (first, second), targets = list(part.batches(3))[1]
    assert torch.equal(first, X[3:6])
    assert torch.equal(second, Y[3:6])
    assert torch.equal(targets, Y[3:6])
    assert part.fingerprint() == as_dataset(SEVERAL[form](), "p").fingerprint()
    assert torch.equal(part[7][0][0], X[7])


def test_masks_stay_bool():
    (_, mask), _ = next(iter(as_dataset([((X, Y > 3), Y)], "p").batches(10)))
    assert torch.equal(mask, Y > 3)


@pytest.mark.parametrize("form", sorted(FORMS))
def test_targets_of_a_regression_stay_as_they_are(form, monkeypatch):
    values = torch.linspace(-1, 1, 30, dtype=torch.float64).reshape(10, 3)
    monkeypatch.setattr(f"{__name__}.Y", values)
    targets = torch.cat([y for _, y in as_dataset(FORMS[form](), "p").batches(4)])
    assert targets.dtype == torch.float32
    assert torch.equal(targets, values.float())


def test_inputs_alone_have_targets_of_nothing() -> None:
    for part in ((X, None), [(X[:4], None), (X[4:], None)], ((X, X), None)):
        data = as_dataset(part, "vectors")
        assert len(data) == len(X)
        assert data.read(0, 3)[1].shape == (3, 0)


class Rows:
    """Samples by number that are dictionaries, as a table of Hugging Face's gives them."""

    def __len__(self):
        return len(X)

    def __getitem__(self, index):
        if not 0 <= index < len(X):
            raise IndexError(index)
        return {"ids": X[index], "mask": X[index] > 0, "labels": Y[index]}


WHOLE = {"ids": X, "mask": X > 0, "labels": Y}
BY_NAME = {
    "rows": Rows,
    "loader": lambda: DataLoader(Rows(), batch_size=3),
    "batches": lambda: [{name: value[part] for name, value in WHOLE.items()} for part in (slice(4), slice(4, 10))],
    "one batch": lambda: WHOLE,
    "a pair": lambda: (WHOLE, Y),
}


@pytest.mark.parametrize("form", BY_NAME)
def test_inputs_by_name(form):
    dataset = as_dataset(BY_NAME[form](), "p")
    inputs, targets = dataset.read(2, 7)
    assert {name: value.tolist() for name, value in inputs.items()} == {
        name: value[2:7].tolist() for name, value in WHOLE.items()
    }
    assert torch.equal(targets, Y[2:7])
    assert len(dataset) == len(X)


class Halves(torch.utils.data.Sampler):
    """Batches of a kind of its own, drawn with Python's random numbers."""

    def __iter__(self):
        order = list(range(len(X)))
        random.shuffle(order)
        yield order[:3]
        yield order[3:6]

    def __len__(self):
        return 2


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 2, "sampler": SubsetRandomSampler([1, 3, 5, 7, 8, 9])},
        {"batch_size": 2, "sampler": WeightedRandomSampler([1.0] * 10, 6)},
        {"batch_size": 2, "sampler": RandomSampler(X, replacement=True, num_samples=6)},
        {"batch_size": 2, "sampler": SubsetRandomSampler([1, 3, 5, 7, 8, 9], generator=torch.Generator())},
        {"batch_sampler": Halves()},
    ],
)
def test_samplers_draw_the_same_in_every_run(options):
    loader = DataLoader(TensorDataset(X, Y), **options)
    found = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        random.seed(seed)
        before = torch.get_rng_state()
        part = as_dataset(loader, "p")
        assert torch.equal(torch.get_rng_state(), before)
        found.append([int(y) for _, y in part])
    assert found[0] == found[1]
    assert len(found[0]) == 6
