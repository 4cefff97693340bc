"""From a job to what the commands work on: the model, the data, the graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bitwright.cli import specs
from bitwright.cli.job import Job
from bitwright.errors import InvalidData

if TYPE_CHECKING:
    from bitwright.graph import Graph
    from bitwright.zoo import DataSets


def load_data(job: Job) -> DataSets:
    """The job's data."""
    job.require("data")
    return specs.load_data(job.data)


def load_graph(job: Job, data: DataSets | None = None) -> Graph:
    """The job's model, captured.

    Example inputs come from the data, or from ``inputs`` where the job has no data.
    """
    job.require("model")
    import torch

    from bitwright.graph import capture

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    model: Any = specs.load_model(job.model, job.weights)
    if job.device != "cpu" and isinstance(model, torch.nn.Module):
        model = model.to(job.device)
    own = getattr(model, "example_inputs", None)  # of an exported program
    if own and data is None and not job.data and job.inputs is None:
        return capture(model, own[0], quantizer=job.quantizer)
    return capture(model, example_inputs(job, data), quantizer=job.quantizer)


def example_inputs(job: Job, data: DataSets | None = None) -> Any:
    """A batch of two samples, of the data or of zeros."""
    import torch

    if data is None and job.data:
        data = load_data(job)
    if data is not None:
        inputs, _ = data.calibration.read(0, min(2, len(data.calibration)))
        if job.inputs is not None and tuple(inputs.shape[1:]) != job.inputs:
            raise InvalidData(
                f"inputs is {list(job.inputs)}, the samples of {data.calibration.name} have shape "
                f"{list(inputs.shape[1:])}; leave inputs out"
            )
        return inputs
    job.require("inputs")
    assert job.inputs is not None
    return torch.zeros(2, *job.inputs)
