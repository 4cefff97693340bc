"""What stops torch.export in a user's model: the line, and the way out that fits."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn

from bitwright.errors import CaptureError
from bitwright.graph import capture

X = torch.randn(4, 6)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate, self.experts = nn.Linear(6, 2), nn.ModuleList([nn.Linear(6, 3), nn.Linear(6, 3)])
        self.register_buffer("state", torch.zeros(4, 6))


class Masks(Net):
    def forward(self, x):
        chosen, found = self.gate(x).argmax(-1), x.new_zeros(len(x), 3)
        for i, expert in enumerate(self.experts):
            mask = chosen == i
            found[mask] = expert(x[mask])
        return found


class Places(Net):
    def forward(self, x):
        chosen, found = self.gate(x).argmax(-1), x.new_zeros(len(x), 3)
        for i, expert in enumerate(self.experts):
            places = (chosen == i).nonzero()[:, 0]
            if places.numel() > 0:
                found = found.index_add(0, places, expert(x[places]))
        return found


class Branch(Net):
    def forward(self, x):
        return self.gate(x) if bool(x.sum() > 0) else self.gate(-x)


class View(Net):
    def forward(self, x):
        return self.gate(x.view(4, 6))


class State(Net):
    def forward(self, x):
        return self.gate(x + self.state)


class Loop(Net):
    def forward(self, x):
        return torch.stack([self.gate(x[i]) for i in range(len(x))])


class Packed(Net):
    def __init__(self, lengths=(6, 2, 5, 3)):
        super().__init__()
        self.rnn, self.lengths = nn.LSTM(1, 3, batch_first=True), lengths

    def forward(self, x):
        lengths = (x > 0).sum(1).clamp(min=1).cpu() if self.lengths is None else torch.tensor(self.lengths)
        rows = nn.utils.rnn.pack_padded_sequence(x.unsqueeze(-1), lengths, batch_first=True, enforce_sorted=False)
        return self.rnn(rows)[1][0][-1]


class PackedByValues(Packed):
    def __init__(self):
        super().__init__(None)


class Length(Net):
    def forward(self, x):
        return self.gate(x) + x.new_zeros(2).expand(len(x), -1)


class Range(Net):
    def forward(self, x):
        return torch.stack([self.gate(x[i]) for i in range(x.shape[0])])


class Rows(Net):
    def forward(self, x):
        return torch.stack([self.gate(row) for row in x])


class Causal(Net):
    def __init__(self):
        super().__init__()
        self.inner = nn.TransformerDecoder(nn.TransformerDecoderLayer(6, 1, 6, batch_first=True), 1)

    def forward(self, x):
        mask = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.inner(x, x, tgt_mask=mask)


class Strange(Net):
    def forward(self, x):
        return object()


ROWS = r"gives has a shape that depends on values; usual way out: .* compute for all samples and weigh the results"
PACKED = r"packed sequences have a length .* way out: pass the padded batch .* states\[torch.arange"


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (Masks, rf"stopped at \S*test_obstacles.py:LINE4: what an index that is a mask {ROWS}"),
        (Places, rf"stopped at \S*test_obstacles.py:LINE3: what nonzero {ROWS}"),
        (
            Branch,
            r"in the model itself .Branch. at \S*py:LINE1: .*way out: write the branch or loop",
        ),
        (
            View,
            r"it runs on 4 samples, and not on 5: shape .* at \S*py:LINE1; .* use x.shape\[0\] or -1",
        ),
        (State, r"it runs on 4 samples, and not on 5: The size of tensor .*test_obstacles.py:LINE1; usual way out"),
        (Loop, r"stopped at \S*py:LINE1: len\(x\) gives the batch size as a fixed number; .*without a loop over"),
        (Packed, rf"{PACKED}"),
        (PackedByValues, rf"{PACKED}"),
        (
            Length,
            r"stopped at \S*py:LINE1: len\(x\) gives the batch size as a fixed number; .*: use x.shape\[0\] in its",
        ),
        (Range, r"takes the batch size, 4 here, for a fixed number; .* no loop over the samples of a batch"),
        (Rows, r"stopped at \S*py:LINE1: a loop over x gives the batch size as a fixed number; .*without a loop over"),
        (Causal, r"way out: tell nn.Transformer whether its masks are causal, tgt_is_causal=True"),
        (Strange, r"usual way out: return tensors, or tuples, dictionaries or dataclasses of tensors"),
    ],
)
def test_each_has_its_own_way_out(kind, reason):
    first = kind.forward.__code__.co_firstlineno
    first = kind.forward.__code__.co_firstlineno
    with pytest.raises(CaptureError) as caught:
        capture(kind().eval(), X[:, None].expand(4, 3, 6) if kind is Causal else X)
    assert re.search(re.sub(r"LINE(\d)", lambda found: str(first + int(found[1])), reason), str(caught.value))
    assert "\n" not in str(caught.value)
    assert "suppression" not in str(caught.value)
