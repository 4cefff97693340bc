"""The flags that commands share; each sets the key of the job file with the same name."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import typer

JobFile = Annotated[
    Path | None, typer.Option("--job", metavar="FILE", help="Job file. [default: bitwright.toml, where there is one]")
]
Model = Annotated[
    str | None, typer.Option("--model", metavar="SPEC", help="package.module:factory, or an exported .pt2 file.")
]
Weights = Annotated[
    Path | None, typer.Option("--weights", metavar="FILE", help="Trained weights (.safetensors or .pt) for the model.")
]
Trust = Annotated[
    bool | None,
    typer.Option("--trust", help="Read a .pt2 file of your own even where reading it runs code that it holds."),
]
Data = Annotated[
    str | None,
    typer.Option(
        "--data",
        metavar="SPEC",
        help="digits, cifar10:DIR, mnist:DIR, imagefolder:DIR, npz:FILE, or package.module:factory.",
    ),
]
Inputs = Annotated[
    str | None, typer.Option("--inputs", metavar="SHAPE", help="Shape of one sample, e.g. 3x32x32, without --data.")
]
BatchSize = Annotated[int | None, typer.Option("--batch-size", metavar="N", help="Samples at once. [default: 64]")]
CalibrationSamples = Annotated[
    int | None, typer.Option("--calibration-samples", metavar="N", help="Samples that set the ranges. [default: 512]")
]
ScoreSamples = Annotated[
    int | None, typer.Option("--score-samples", metavar="N", help="Samples behind the scores. [default: 512]")
]
HoldoutSamples = Annotated[
    int | None,
    typer.Option("--holdout-samples", metavar="N", help="Further samples that rank the candidates. [default: 512]"),
]
Points = Annotated[int | None, typer.Option("--points", metavar="N", help="Points of the Pareto front. [default: 20]")]
Ranges = Annotated[
    str | None, typer.Option("--ranges", metavar="METHOD", help="minmax, percentile or mse. [default: mse]")
]
Method = Annotated[
    str | None, typer.Option("--method", metavar="METHOD", help="How sites are scored. [default: margin-fit]")
]
Bits = Annotated[
    str | None, typer.Option("--bits", metavar="LIST", help="Widths to choose from. [default: 2,3,4,5,6,8]")
]
Budget = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="LIMIT",
        help="e.g. bops=W4A4, size=60%, or size=250KB,bops=30% (both hold). Give it again for further candidates; "
        "the first one is exported.",
    ),
]
TargetDrop = Annotated[
    float | None,
    typer.Option("--target-drop", metavar="POINTS", help="Without a budget: points that may be lost. [default: 0.5]"),
]
Cost = Annotated[
    str | None, typer.Option("--cost", metavar="COST", help="Axis of the front: bops or size. [default: bops]")
]
Pins = Annotated[
    list[str] | None, typer.Option("--pin", metavar="SITE=BITS", help="Fix a width, e.g. 'fc.*=8' or conv1=float.")
]
Quantizer = Annotated[
    str | None,
    typer.Option(
        "--quantizer",
        metavar="NAME",
        help="Placement: edge, edge-tensor (one step for each weight), x86 or xnnpack. [default: edge]",
    ),
]
Runtime = Annotated[
    str | None, typer.Option("--runtime", metavar="NAME", help="onnxruntime or none. [default: onnxruntime]")
]
Output = Annotated[
    Path | None, typer.Option("--output", "-o", metavar="DIR", help="Folder for all files. [default: bitwright-out]")
]
Seed = Annotated[int | None, typer.Option("--seed", metavar="N", help="Of everything drawn at random. [default: 0]")]
Threads = Annotated[int | None, typer.Option("--threads", metavar="N", help="Threads of PyTorch and of the runtime.")]
Device = Annotated[str | None, typer.Option("--device", metavar="NAME", help="e.g. cpu or cuda. [default: cpu]")]

Repairs = Annotated[
    str | None,
    typer.Option(
        "--repairs", metavar="LIST", help="What --target-drop may do to hold, or none. [default: gptq,adaround]"
    ),
]
PolicyFile = Annotated[
    str | None,
    typer.Option(
        "--policy", metavar="POLICY", help="A policy file, or e.g. W4A8. [default: policy.json of the output folder]"
    ),
]

RecipeFile = Annotated[
    str | None,
    typer.Option(
        "--recipe",
        metavar="FILE",
        help="A recipe: policy, repairs and ranges together. What the .npz file beside it holds is not fitted again.",
    ),
]

Loss = Annotated[
    str | None,
    typer.Option(
        "--loss", metavar="MODULE:FUNCTION", help="(outputs, targets) -> a loss per sample. [default: cross-entropy]"
    ),
]
Metric = Annotated[
    str | None,
    typer.Option(
        "--metric", metavar="MODULE:FUNCTION", help="(outputs, targets) -> a number over all samples, shown beside."
    ),
]

_FLAGS: dict[str, Any] = {
    "model": Model,
    "weights": Weights,
    "trust": Trust,
    "data": Data,
    "inputs": Inputs,
    "budget": Budget,
    "target_drop": TargetDrop,
    "output": Output,
    "bits": Bits,
    "repairs": Repairs,
    "cost": Cost,
    "method": Method,
    "pins": Pins,
    "ranges": Ranges,
    "calibration_samples": CalibrationSamples,
    "score_samples": ScoreSamples,
    "holdout_samples": HoldoutSamples,
    "points": Points,
    "batch_size": BatchSize,
    "quantizer": Quantizer,
    "runtime": Runtime,
    "seed": Seed,
    "threads": Threads,
    "device": Device,
    "loss": Loss,
    "metric": Metric,
}
BASICS = ("model", "weights", "trust", "data", "output")
MEASURES = ("loss", "metric")
CALIBRATION = ("ranges", "calibration_samples", "batch_size", "quantizer", "seed", "threads", "device", *MEASURES)
SCORING = ("bits", "method", "score_samples")
SEARCHING = ("budget", "cost", "pins", "points")


def _annotated(hint: Any) -> Any:
    """The hint that was written: Python 3.10 wraps those of parameters with the default None into another Optional."""
    inner = get_args(hint)
    return inner[0] if inner and get_origin(inner[0]) is Annotated else hint


def takes_job(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags of these settings, before its own; it is handed the :class:`Job` that they make."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(job: Path | None = None, **given: Any) -> None:
            from bitwright.cli.job import load_job, parse_pins

            flags = {name: given.pop(name) for name in names}
            if "pins" in flags:
                flags["pins"] = parse_pins(flags["pins"])
            command(load_job(job, **flags), **given)

        hints = get_type_hints(command, localns={"Job": object}, include_extras=True)
        own = list(inspect.signature(command).parameters.values())[1:]
        kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
        parameters = [
            inspect.Parameter("job", kind, default=None, annotation=JobFile),
            *(inspect.Parameter(name, kind, default=None, annotation=_FLAGS[name]) for name in dict.fromkeys(names)),
            *(p.replace(annotation=_annotated(hints[p.name])) for p in own),
        ]
        run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {p.name: p.annotation for p in parameters}
        return run

    return decorate
