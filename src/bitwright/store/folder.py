"""The files of an output folder, beside the run store."""

from __future__ import annotations

from pathlib import Path

from bitwright.errors import StoreError

JOB = "bitwright.toml"
"""The settings that made it, as a job file."""
POLICY = "policy.json"
"""The chosen policy."""
RECIPE = "recipe.json"
"""Bits, repairs and ranges in their order; ``bitwright run --recipe`` applies it again."""
REPAIRS = "repairs.json"
"""What repairs needed, changed and cost, and the figures before and after."""
BEHAVIOR = "behavior.json"
"""Float and quantized network under shifts of the inputs."""
BEHAVIOR_PAGE = "behavior.html"
"""The same as a page, with pictures."""
RETRAINED = "retrained.json"
"""The recipe of a network that was trained with its disagreements."""
TRAINING = "training.json"
TRAINING_PAGE = "training.html"
"""How a training went, epoch by epoch, and the figures before and after."""
CHECKPOINT = "training.checkpoint"
"""The state of a training that was interrupted; it is removed when the training is done."""
SEARCHED = "gmpq.json"
"""A search by gradients: its course, the shares of the widths at every site, attributions, figures."""
FACTS = "gmpq-study.json"
"""The published facts about such searches, each with what was measured."""
SEARCHED_PAGE = "gmpq.html"
SEARCH_CHECKPOINT = "gmpq.checkpoint"
"""The state of a search by gradients that was interrupted."""
FRONT = "front.json"
"""The candidates of the search."""
SENSITIVITY_JSON = "sensitivity.json"
SENSITIVITY_CSV = "sensitivity.csv"
MODEL = "model.onnx"
SCALES = "scales.json"
"""Scales and zero points of the exported model."""
REPORT = "report.html"
FINDINGS = "findings.json"
"""What the debugging flow measured and concluded at each step."""
FINDINGS_PAGE = "debug.html"
SWEEP = "sweep.json"
"""What each quantizer does alone on, and alone off."""
SWEEP_PAGE = "sweep.html"
WEIGHTS = "digits.pt"
"""Of the network that ``bitwright demo`` trains."""
TENSORS_PAGE = "tensors.html"
"""Tensors with their grids."""
REPORT_DATA = "report.json"
"""What the report shows, as data; ``bitwright report`` and ``bitwright compare`` read it."""


def read_output(folder: str | Path, name: str, made_by: str) -> str:
    """The text of a file that an earlier command wrote."""
    path = Path(folder) / name
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise StoreError(f"there is no {name} in '{folder}'; run `{made_by}` with this output folder first") from None
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read '{path}': {getattr(error, 'strerror', None) or error}") from None
