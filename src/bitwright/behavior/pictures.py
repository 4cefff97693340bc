"""The inputs on which two networks disagree, to be looked at: pictures and texts for the page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as functional
from torch import Tensor

from bitwright.behavior.cases import cases_of
from bitwright.behavior.shift import Scale
from bitwright.graph.batches import Checked, iterate
from bitwright.report.pictures import png
from bitwright.values.behavior import Example

LARGEST = 224
"""Pixels of a picture's longer side, at most."""


def pictures(
    examples: Sequence[Example],
    batches: Any,
    others: Mapping[str, Any] | None,
    seed: int,
    words: Sequence[str] | None = None,
) -> tuple[str, ...]:
    """An address of a PNG image for each example, its data within, or its text; "" where an input is neither.

    Args:
        examples: of a study.
        batches: of the study, in the same order.
        others: likewise.
        seed: likewise.
        words: what the numbers of a text stand for, by number; None: texts are not shown.
    """
    data = Checked(batches, purpose="behavior")
    names, given = dict.fromkeys(one.shift for one in examples), others or {}
    shifts = [name for name in names if name and name not in given]
    severities = sorted({one.severity for one in examples if one.severity}) or [1]
    scale = Scale.of(data)
    found = {}
    for case in cases_of(data, shifts, severities, given, seed):
        wanted = {one.sample for one in examples if (one.shift, one.severity) == (case.name, case.severity)}
        start = 0
        for inputs, _ in iterate(case.batches, purpose="behavior") if wanted else ():
            for sample in sorted(wanted):
                if start <= sample < start + len(inputs[0]):
                    found[case.name, case.severity, sample] = _shown(inputs[0][sample - start], scale, words)
            start += len(inputs[0])
            if start > max(wanted):
                break
    return tuple(found.get((one.shift, one.severity, one.sample), "") for one in examples)


def _shown(value: Tensor, scale: Scale, words: Sequence[str] | None) -> str:
    if scale.kind == "words" and words is not None:
        known = [words[number] if number < len(words) else "?" for number in value.tolist() if number]
        return " ".join(known).replace(" ##", "")
    return _address(value, scale)


def _address(value: Tensor, scale: Scale) -> str:
    if scale.kind != "images" or value.dim() != 3:
        return ""
    pixels = ((value.detach().float().cpu() - scale.low[0]) / scale.span[0]).clamp(0, 1)
    smaller = LARGEST / max(pixels.shape[1:])
    if smaller < 1:
        size = [max(1, round(side * smaller)) for side in pixels.shape[1:]]
        pixels = functional.interpolate(pixels[None], size, mode="area")[0]
    array = (pixels * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    return png(array if array.shape[2] == 3 else array[:, :, 0])
