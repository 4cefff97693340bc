"""Shifts of texts that come as numbers of words or word pieces, (N, T); 0 is taken for padding and stays."""

from __future__ import annotations

import torch
from torch import Generator, Tensor

from bitwright.behavior.shift import registered

_SHARES = (0.03, 0.06, 0.10, 0.15, 0.20)


@registered(
    name="unknown-words", order=80, does="Words that are misspelt or unknown: others in their place.", kind="words"
)
def unknown_words(inputs: Tensor, severity: int, generator: Generator, largest: int) -> Tensor:
    """3 to 20 % of the words are replaced by any other."""
    others = torch.randint(1, max(largest, 1) + 1, inputs.shape, generator=generator).to(inputs)
    return torch.where(_chosen(inputs, severity, generator), others, inputs)


@registered(name="dropped-words", order=81, does="Words that are missing.", kind="words")
def dropped_words(inputs: Tensor, severity: int, generator: Generator, largest: int) -> Tensor:
    """3 to 20 % of the words go, and the gaps close towards the end that is not padded; the other one is padded."""
    gone = _chosen(inputs, severity, generator)
    front = inputs[:, :1] == 0
    order = torch.where(front, ~gone, gone).long().sort(dim=1, stable=True).indices
    kept = inputs.gather(1, order)
    return torch.where(gone.gather(1, order), 0, kept)


@registered(name="swapped-words", order=82, does="Neighbouring words in the wrong order.", kind="words")
def swapped_words(inputs: Tensor, severity: int, generator: Generator, largest: int) -> Tensor:
    """3 to 20 % of the words change places with the next one."""
    chosen = _chosen(inputs, severity, generator)
    chosen[:, -1] = False
    chosen[:, :-1] &= inputs[:, 1:] != 0
    order = torch.arange(inputs.shape[1]).repeat(len(inputs), 1)
    for place in range(inputs.shape[1] - 1):
        swap = chosen[:, place, None]
        pair = order[:, place : place + 2]
        order[:, place : place + 2] = torch.where(swap, pair.flip(1), pair)
    return inputs.gather(1, order)


def _chosen(inputs: Tensor, severity: int, generator: Generator) -> Tensor:
    drawn = torch.rand(inputs.shape, generator=generator) < _SHARES[severity - 1]
    return drawn & (inputs != 0)
