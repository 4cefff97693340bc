from __future__ import annotations

import pytest
import torch

from bitwright.errors import InvalidInput
from bitwright.runtimes import export, latency, predict
from bitwright.values import FLOAT, Policy


@pytest.fixture(scope="module")
def files(captured, tmp_path_factory):
    graph, inputs = captured("residual")
    folder = tmp_path_factory.mktemp("files")
    weights_only = Policy.uniform(graph.sites, 8, None)
    return (
        export(graph, folder / "quantized.onnx", policy=weights_only).path,
        export(graph, folder / "float.onnx", policy=FLOAT).path,
        inputs,
    )


def test_times_are_measured_against_float_and_float_operations_named(files):
    quantized, plain, inputs = files
    found = latency(quantized, plain, batches=(1, 4), seconds=0.0, inputs=[inputs])
    assert [item.batch for item in found] == [1, 4]
    for item in found:
        assert item.seconds > 0
        assert item.float_seconds > 0
        assert item.ratio == item.seconds / item.float_seconds  # of the medians that are shown beside it
        assert "head (Gemm)" in item.unfused
        assert any(name.endswith(" (Conv)") for name in item.unfused), item.unfused


def test_a_file_against_itself_takes_about_the_same_time(files):
    _, plain, _ = files
    (found,) = latency(plain, plain, batches=(32,), seconds=0.3)
    assert 0.4 < found.ratio < 2.5


def test_batches_and_files_are_checked(files, tmp_path):
    quantized, plain, _ = files
    with pytest.raises(InvalidInput, match="batches must be at least 1, got 0"):
        latency(quantized, plain, batches=(0,))
    with pytest.raises(InvalidInput, match="there is no file"):
        latency(tmp_path / "missing.onnx", plain)
    with pytest.raises(InvalidInput, match="the file takes 1 inputs, got 2"):
        predict(plain, [((torch.ones(1, 3, 8, 8), torch.ones(1)), None)])
