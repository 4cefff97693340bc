from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bitwright.report.panels_tensor import HEIGHT, MOST_SLICES, WIDTH, tensor_panel
from bitwright.values.tensors import AxisView, TensorView


def axis(size: int, one_grid: bool = True) -> AxisView:
    high = tuple(float(i + 1) for i in range(size))
    quantiles = tuple((0.0, 0.0, h / 2, h / 2, h) for h in high)
    return AxisView("channel", 1, (0.0,) * size, high, quantiles, (0.0,) * size, (0.5,) * size, high)


VIEW = TensorView(
    "relu",
    "activation",
    (4, 4, 2),
    2,
    0.0,
    4.0,
    1.0,
    1.0,
    3.0,
    (0.0, 1.0, 2.0, 3.0, 4.0),
    (10, 5, 0, 1),
    (1.0,),
    (0.0,),
    (3.0,),
    0.02,
    0.4,
    11.0,
    (axis(4),),
)


def test_histogram_and_grid_share_one_scale() -> None:
    panel = tensor_panel(VIEW)
    assert [bar[0] for bar in panel.bars] == [0.0, 160.0, 320.0, 480.0]
    assert panel.bars[0][3] == HEIGHT
    assert panel.bars[2][3] == 0
    assert panel.bars[1][3] == pytest.approx(HEIGHT * math.log(6) / math.log(11), abs=0.01)
    assert panel.lines == (0.0, 160.0, 320.0, 480.0)
    assert panel.ends == (0.0, 480.0)  # what lies to the right of it is clipped
    assert panel.zero == 0.0
    assert ("clipped", "2.00%") in panel.facts
    assert ("SQNR", "11.0 dB") in panel.facts


def test_a_grid_much_wider_than_the_values_ends_at_the_edge() -> None:
    panel = tensor_panel(replace(VIEW, grid_high=(300.0,), steps=(100.0,)))
    assert panel.ends == (0.0, WIDTH)
    assert panel.lines == (0.0,)
    assert float(panel.high) == 5.0


def test_many_points_are_not_drawn_and_many_steps_are_said() -> None:
    wide = replace(VIEW, bits=8, steps=(3 / 255,))
    assert tensor_panel(wide).lines == ()
    several = replace(VIEW, steps=(1.0, 2.0, 3.0), grid_low=(0.0,) * 3, grid_high=(3.0, 6.0, 9.0))
    panel = tensor_panel(several)
    assert "3 steps, the grid drawn is the middle one's" in panel.grid_note
    assert "step 2" in panel.grid_note
    assert panel.axes[0].grid == ()


def test_slices_by_axis() -> None:
    panel = tensor_panel(VIEW).axes[0]
    assert panel.width == WIDTH / 4
    assert [s.index for s in panel.slices] == [0, 1, 2, 3]
    assert panel.slices[3].top == 0.0
    assert panel.slices[0].top == HEIGHT * 0.75
    assert all(s.bottom == HEIGHT for s in panel.slices)
    assert panel.grid == (HEIGHT, HEIGHT * 0.25)
    assert [row.index for row in panel.worst] == [0, 1, 2, 3]
    assert "channel (3) reaches 1.3 times" in panel.sentence


def test_of_many_slices_the_worst_and_the_widest_are_drawn() -> None:
    panel = tensor_panel(replace(VIEW, axes=(axis(1000),))).axes[0]
    assert len(panel.slices) == MOST_SLICES
    drawn = [s.index for s in panel.slices]
    assert drawn == sorted(drawn)
    assert {0, 999} <= set(drawn)
    assert panel.shown == "160 of 1000"


def test_a_tensor_of_zeros_can_be_drawn() -> None:
    nothing = AxisView("channel", 1, (0.0,) * 2, (0.0,) * 2, ((0.0,) * 5,) * 2, (0.0,) * 2, (0.0,) * 2, (math.inf,) * 2)
    panel = tensor_panel(
        replace(VIEW, low=0.0, high=0.0, edges=(0.0, 0.0), counts=(32,), sqnr=math.inf, axes=(nothing,))
    )
    assert ("SQNR", "nothing is lost") in panel.facts
    assert panel.axes[0].worst[0].sqnr == "nothing is lost"
