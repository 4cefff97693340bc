"""The flags that commands share; each sets the key of the job file with the same name."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

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
    typer.Option("--budget", metavar="LIMIT", help="e.g. bops=W4A4, size=60%, size=250KB; several must all hold."),
]
TargetDrop = Annotated[
    float | None,
    typer.Option("--target-drop", metavar="POINTS", help="Without a budget: points of accuracy that may be lost."),
]
Cost = Annotated[
    str | None, typer.Option("--cost", metavar="COST", help="Axis of the front: bops or size. [default: bops]")
]
Pins = Annotated[
    list[str] | None, typer.Option("--pin", metavar="SITE=BITS", help="Fix a width, e.g. 'fc.*=8' or conv1=float.")
]
Quantizer = Annotated[
    str | None, typer.Option("--quantizer", metavar="NAME", help="Placement: edge, x86 or xnnpack. [default: edge]")
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
