"""The embedded example: accurate, the same each time, and it leaves torch's generator alone."""

from __future__ import annotations

import torch

from bitwright.data import load_data
from bitwright.zoo import DigitsNet, example, train_digits_network


def test_the_network_learns_the_digits(digits_model, monkeypatch):
    seen = []
    torch.manual_seed(7)
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    with torch.no_grad():  # must not matter
        network = train_digits_network(seed=0, progress=lambda done, total: seen.append((done, total)))
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert isinstance(network, DigitsNet)
    assert not network.training
    assert seen == [(step, len(seen)) for step in range(1, len(seen) + 1)]
    digits = load_data("digits").evaluation
    x, y = digits.read(0, len(digits))
    with torch.no_grad():
        accuracy = (network(x).argmax(dim=1) == y).float().mean().item()
    assert accuracy >= 0.97

    assert all(torch.equal(a, b) for a, b in zip(network.parameters(), digits_model.parameters(), strict=True))

    monkeypatch.setattr(example, "EPOCHS", 1)
    first, again, other = (train_digits_network(seed).linear.weight for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
