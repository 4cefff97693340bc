"""The job: what a command is asked to do, from ``bitwright.toml`` and from flags. Flags win."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError
from pydantic.fields import FieldInfo

from bitwright.cli.specs import load_function, load_task
from bitwright.errors import InvalidInput, InvalidJob
from bitwright.files import read_bounded
from bitwright.registry import registry_of
from bitwright.settings import Flag, Positive, Settings, fault, flag_name, numbers

if sys.version_info >= (3, 11):
    import tomllib
else:  # pragma: no cover
    import tomli as tomllib

JOB_FILE = "bitwright.toml"
MOST_BYTES = 1 << 20


class Job(Settings):
    """Every setting of a command: those of the run, and what it runs on. The fields' names are the job file's keys.

    Functions are names here (``package.module:function``); :meth:`settings` imports them.
    """

    model: Annotated[str, Flag("SPEC")] = ""
    """package.module:factory, or an exported .pt2 file."""
    weights: Annotated[Path | None, Flag("FILE")] = None
    """Trained weights for the model, .safetensors or .pt."""
    trust: Annotated[bool, Flag("")] = False
    """Read a .pt2 file of your own even where reading it runs code that it holds."""
    data: Annotated[str, Flag("SPEC")] = ""
    """A named data set, or package.module:factory."""
    inputs: Annotated[tuple[Positive, ...] | None, numbers("x,"), Flag("SHAPE")] = None
    """Shape of one sample, e.g. 3x32x32, for commands that need no data."""
    output: Annotated[Path, Flag("DIR", short="-o")] = Path("bitwright-out")
    """Folder for all files."""
    threads: Annotated[Annotated[int, Field(ge=1, le=1024)] | None, Flag("N", empty="PyTorch's choice")] = None
    """Threads of PyTorch and of the runtime."""
    device: Annotated[str, Flag("NAME")] = "cpu"
    """Where PyTorch computes, e.g. cpu or cuda."""

    def settings(self) -> Settings:
        """The settings of the run, without what it runs on; functions are imported."""
        values = {name: getattr(self, name) for name in Settings.model_fields}
        for name in ("loss", "metric"):
            values[name] = load_function(values[name], name) if values[name] else None
        values["task"] = load_task(values["task"]) if values["task"] else None
        return Settings(**values)

    def echo(self) -> dict[str, Any]:
        """Every setting as plain data, for the record."""
        values = self.model_dump(mode="json")
        return {name: values[name] for name in fields()}

    def anchored(self) -> Job:
        """The same job with absolute paths, to be kept in its own output folder."""
        changes: dict[str, Any] = {"output": Path()}
        if self.weights is not None:
            changes["weights"] = self.weights.expanduser().absolute()
        if self.model.endswith(".pt2"):
            changes["model"] = str(Path(self.model).expanduser().absolute())
        changes["data"] = _placed(self.data, Path.cwd())
        return self.model_copy(update=changes)

    def require(self, *names: str) -> None:
        """Raise :class:`InvalidJob` unless these settings were given."""
        examples = {"model": "mynet:build", "data": "cifar10:DIR", "inputs": "3x32x32"}
        for name in names:
            if not getattr(self, name):
                raise InvalidJob(
                    f"no {name} given: pass --{name} (e.g. --{name} {examples[name]}) or set '{name}' in {JOB_FILE}"
                )

    def to_toml(self) -> str:
        """The settings that differ from the defaults, as a job file."""
        lines, tables = [], []
        for name, field in fields().items():
            value = getattr(self, name)
            if name == "pins":
                tables += [f"{json.dumps(site)} = {_toml(width)}" for site, width in value.items()]
            elif value is not None and value != field.default:
                lines.append(f"{name} = {_toml(value)}")
        if tables:
            lines += ["", "[pins]", *tables]
        return "\n".join(lines) + "\n"


def fields() -> dict[str, FieldInfo]:
    """Every setting by name: what a command runs on, then how the run goes."""
    own = {name: field for name, field in Job.model_fields.items() if name not in Settings.model_fields}
    return {**own, **Settings.model_fields}


def _toml(value: Any) -> str:
    if isinstance(value, Path):
        return json.dumps(str(value))
    return json.dumps(list(value) if isinstance(value, tuple) else value, ensure_ascii=False)


def load_job(path: Path | None = None, **flags: Any) -> Job:
    """The job of a job file and flags.

    Args:
        path: the job file; None: ``bitwright.toml`` in the current folder, if it is there. Paths in it are
            taken from its own folder.
        **flags: settings that win over the file's, as text or values; None or an empty list means that the flag was
            not given.

    Raises:
        InvalidJob: the file cannot be read or is not TOML, a key is unknown (the nearest is suggested), or a
            value cannot be used.
    """
    chosen = path if path is not None else Path(JOB_FILE)
    text = ""
    if path is not None or chosen.is_file():
        try:
            text = read_bounded(chosen, MOST_BYTES).decode("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or error
            raise InvalidJob(f"cannot read the job file '{chosen}': {reason}") from None
    try:
        written = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # TOML that is none, and whole numbers of thousands of digits
        raise InvalidJob(f"the job file '{chosen}' is not valid TOML: {error}") from None

    def source(key: str) -> str:
        line = _line(text, key)
        return f" ({chosen}{f' line {line}' if line else ''})"

    return made(_anchored(written, chosen.parent), flags, source)


def made(written: Mapping[str, Any], flags: Mapping[str, Any], source: Callable[[str], str] = lambda key: "") -> Job:
    """The job of settings that were written down and of flags that win over them.

    Args:
        written: setting -> value.
        flags: as for :func:`load_job`.
        source: setting -> where it was written, in brackets, for messages.

    Raises:
        InvalidJob: a setting is unknown, or its value cannot be used.
    """
    given = {name: value for name, value in flags.items() if value is not None and value != []}
    settings = {**written, **given}
    if "pins" in given:
        before = written.get("pins")
        settings["pins"] = {**(before if isinstance(before, dict) else {}), **parse_pins(given["pins"])}
    try:
        return Job(**settings)
    except InvalidInput as error:
        cause = error.__cause__
        if not isinstance(cause, ValidationError):
            raise
        flagged = {key: f" ({flag_name(key, Job.model_fields[key])})" for key in given}
        raise InvalidJob(fault(cause, fields(), lambda key: flagged.get(key) or source(key))) from None


def parse_pins(texts: list[str]) -> dict[str, Any]:
    """``["conv1.weight=8", "fc=float"]`` from the command line as a mapping."""
    pins: dict[str, Any] = {}
    for text in texts:
        site, equals, width = (part.strip() for part in text.rpartition("="))
        if not equals or not site or not width:
            raise InvalidJob(f"a pin must have the form SITE=BITS or SITE=float, got '{text}'")
        pins[site] = int(width) if width.isdecimal() else width
    return pins


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
    if isinstance(data, str):
        anchored["data"] = _placed(data, folder)
    return anchored


def _placed(data: str, folder: Path) -> str:
    """A spec of data whose path is taken from a folder; what has no path stays as it is."""
    kind, colon, path = data.partition(":")
    source = registry_of("data").get(kind) if path else None
    return f"{kind}:{folder / Path(path).expanduser()}" if source is not None and source.path else data


def _line(text: str, key: str) -> int | None:
    """The line of a key (or of its table), counted from 1."""
    pattern = re.compile(rf"""^\s*(\[+\s*)?["']?{re.escape(key)}["']?\s*(=|\.|\])""")
    return next((i for i, line in enumerate(text.splitlines(), start=1) if pattern.match(line)), None)
