"""The job: what a command is asked to do, from ``bitwright.toml`` and from flags. Flags win."""

from __future__ import annotations

import dataclasses
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from bitwright.cli.specs import load_function
from bitwright.errors import InvalidJob, nearest
from bitwright.values.settings import Settings

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

JOB_FILE = "bitwright.toml"
_DATA_PATH = re.compile(r"(cifar10|mnist|imagefolder|npz):(.+)", re.DOTALL)


def _listed(value: Any) -> Any:
    """``"2,3,4"`` and ``"3x32x32"`` as lists of numbers, one value as a list of one; the rest as it is."""
    if isinstance(value, str):
        parts = [part for part in re.split(r"[,x\s]+", value.strip("()[] ")) if part]
        return [int(part) if part.isdecimal() else part for part in parts]
    return [value] if isinstance(value, int) else value


def _texts(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


def _names(value: Any) -> Any:
    """``"gptq,adaround"`` as a list of names, ``"none"`` as an empty one; the rest as it is."""
    if isinstance(value, str):
        return [part for part in re.split(r"[,\s]+", value.strip()) if part and part != "none"]
    return value


def _ascending(value: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(sorted(set(value)))


Bits = Annotated[int, Field(ge=2, le=16)]
Positive = Annotated[int, Field(ge=1)]


class Job(BaseModel):
    """Every setting of a command; the keys of ``bitwright.toml`` are the fields' names.

    Attributes beside those of :class:`~bitwright.values.settings.Settings`:
        model: ``package.module:factory``, or a ``.pt2`` file.
        weights: a ``.safetensors`` or ``.pt`` file that is loaded into the model.
        trust: the ``.pt2`` file is read even where that runs code that it holds.
        data: ``package.module:factory``, or ``digits``, ``cifar10:DIR``, ``mnist:DIR``, ``imagefolder:DIR``,
            ``npz:FILE``.
        inputs: the shape of one sample, for commands without data, e.g. ``[3, 32, 32]``.
        output: the folder that everything is written to.
        loss: ``package.module:function``, see :class:`~bitwright.values.settings.Settings`.
        metric: likewise.
        threads: of PyTorch and of the runtime; None leaves PyTorch's choice.
        device: where PyTorch computes.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = ""
    weights: Path | None = None
    trust: bool = False
    data: str = ""
    inputs: Annotated[tuple[Positive, ...] | None, BeforeValidator(_listed)] = None
    batch_size: Positive = Settings.batch_size
    calibration_samples: Positive = Settings.calibration_samples
    score_samples: Annotated[int, Field(ge=2)] = Settings.score_samples
    holdout_samples: Annotated[int, Field(ge=2)] = Settings.holdout_samples
    ranges: Literal["minmax", "percentile", "mse"] = "mse"
    method: str = Settings.method
    bits: Annotated[tuple[Bits, ...], BeforeValidator(_listed), Field(min_length=1), AfterValidator(_ascending)] = (
        Settings.bits
    )
    budget: Annotated[tuple[str, ...], BeforeValidator(_texts)] = ()
    target_drop: Annotated[float, Field(ge=0, le=100)] | None = None
    repairs: Annotated[tuple[str, ...], BeforeValidator(_names)] = Settings.repairs
    cost: Literal["bops", "size"] = "bops"
    pins: dict[str, Bits | Literal["float"]] = Field(default_factory=dict)
    points: Annotated[int, Field(ge=2)] = Settings.points
    rounds: Positive = Settings.rounds
    quantizer: Literal["edge", "edge-tensor", "x86", "xnnpack"] = "edge"
    runtime: Literal["onnxruntime", "none"] = "onnxruntime"
    output: Path = Path("bitwright-out")
    seed: Annotated[int, Field(ge=0, lt=2**32)] = Settings.seed
    loss: str = ""
    metric: str = ""
    threads: Positive | None = None
    device: str = "cpu"

    def settings(self) -> Settings:
        """The settings of the run, without what it runs on."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(Settings)}
        for name in ("loss", "metric"):
            values[name] = load_function(values[name], name) if values[name] else None
        return Settings(**values)

    def echo(self) -> dict[str, Any]:
        """Every setting as plain data, for the record."""
        return self.model_dump(mode="json")

    def anchored(self) -> Job:
        """The same job with absolute paths, to be kept in its own output folder."""
        changes: dict[str, Any] = {"output": Path()}
        if self.weights is not None:
            changes["weights"] = self.weights.expanduser().absolute()
        if self.model.endswith(".pt2"):
            changes["model"] = str(Path(self.model).expanduser().absolute())
        if found := _DATA_PATH.match(self.data):
            changes["data"] = f"{found[1]}:{Path(found[2]).expanduser().absolute()}"
        return self.model_copy(update=changes)

    def require(self, *names: str) -> None:
        """Raise :class:`InvalidJob` unless these settings were given."""
        examples = {
            "model": "mynet:build",
            "data": "cifar10:DIR",
            "inputs": "3x32x32",
        }
        for name in names:
            if not getattr(self, name):
                raise InvalidJob(
                    f"no {name} given: pass --{name} (e.g. --{name} {examples[name]}) or set '{name}' in {JOB_FILE}"
                )

    def to_toml(self) -> str:
        """The settings that differ from the defaults, as a job file."""
        lines, tables = [], []
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name == "pins":
                tables += [f"{json.dumps(site)} = {_toml(width)}" for site, width in value.items()]
            elif value is not None and value != field.default:
                lines.append(f"{name} = {_toml(value)}")
        if tables:
            lines += ["", "[pins]", *tables]
        return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    if isinstance(value, Path):
        return json.dumps(str(value))
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def load_job(path: Path | None = None, **flags: Any) -> Job:
    """The job of a job file and flags.

    Args:
        path: the job file; None: ``bitwright.toml`` in the current folder, if it is there. Paths in it are
            taken from its own folder.
        **flags: settings that win over the file's; None means that the flag was not given.

    Raises:
        InvalidJob: the file cannot be read or is not TOML, a key is unknown (the nearest is suggested), or a
            value cannot be used.
    """
    chosen = path if path is not None else Path(JOB_FILE)
    text = ""
    if path is not None or chosen.is_file():
        try:
            text = chosen.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidJob(f"cannot read the job file '{chosen}': {reason}") from None
    try:
        written = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InvalidJob(f"the job file '{chosen}' is not valid TOML: {error}") from None
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    settings = {**_anchored(written, chosen.parent), **given}
    if "pins" in given and isinstance(written.get("pins"), dict):
        settings["pins"] = {**written["pins"], **given["pins"]}
    try:
        return Job(**settings)
    except ValidationError as error:
        raise InvalidJob(_explain(error.errors(), chosen, text, given)) from None


def parse_pins(texts: list[str] | None) -> dict[str, Any] | None:
    """``["conv1.weight=8", "fc=float"]`` from the command line as a mapping.

    Raises:
        InvalidJob: one of them has no ``=``.
    """
    pins: dict[str, Any] = {}
    for text in texts or ():
        site, equals, width = (part.strip() for part in text.rpartition("="))
        if not equals or not site or not width:
            raise InvalidJob(f"a pin reads SITE=BITS or SITE=float, got '{text}'")
        pins[site] = int(width) if width.isdecimal() else width
    return pins or None


def _anchored(settings: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Paths in a job file are relative to its folder."""
    anchored = dict(settings)
    if folder == Path():
        return anchored
    for name in ("weights", "output"):
        if isinstance(value := anchored.get(name), str):
            anchored[name] = str(folder / Path(value).expanduser())
    model, data = anchored.get("model"), anchored.get("data")
    if isinstance(model, str) and model.endswith(".pt2"):
        anchored["model"] = str(folder / Path(model).expanduser())
    if isinstance(data, str) and (found := _DATA_PATH.match(data)):
        anchored["data"] = f"{found[1]}:{folder / Path(found[2]).expanduser()}"
    return anchored


def _explain(errors: list[ErrorDetails], path: Path, text: str, given: Mapping[str, Any]) -> str:
    """One line about the first fault; unknown keys first, since a typo may cause the others."""
    fault = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    key = str(fault["loc"][0])
    line = _line(text, key)
    where = f" ({path}{f' line {line}' if line else ''})"
    if fault["type"] == "extra_forbidden":
        hint = nearest(key, Job.model_fields)
        known = "" if hint else f"; known keys: {', '.join(Job.model_fields)}"
        return f"unknown key '{key}' in the job file{where}{hint}{known}"
    wanted = re.sub(r"^(Input|Value) should ", "must ", fault["msg"])
    if key == "pins":
        site = fault["loc"][1] if len(fault["loc"]) > 1 else ""
        wanted = "must map sites to whole numbers of bits from 2 to 16, or to 'float'"
        key = f"pins['{site}']" if site else key
    elif len(fault["loc"]) > 1 and isinstance(fault["loc"][1], int):
        wanted = f"holds a value that {wanted}"
    value = fault["input"]
    source = f" (--{key.replace('_', '-')})" if key in given else where
    more = f" (and {len(errors) - 1} more)" if len({e["loc"][0] for e in errors}) > 1 else ""
    return f"{key} {wanted}, got {value!r}{source}{more}"


def _line(text: str, key: str) -> int | None:
    """The line of a key (or of its table), counted from 1."""
    pattern = re.compile(rf"""^\s*(\[+\s*)?["']?{re.escape(key)}["']?\s*(=|\.|\])""")
    return next((i for i, line in enumerate(text.splitlines(), start=1) if pattern.match(line)), None)
