"""Every setting of a run, once: its type, its limits, its default and what it means.

The job file is checked by this model; flags, their help, the defaults of the Python functions and ``docs/settings.md``
come from it.
"""

from __future__ import annotations

import re
import reprlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import PydanticCustomError

from bitwright.errors import InvalidInput, nearest
from bitwright.registry import parsed, registry_of

DEFAULT_DROP = 0.5
"""Points of the primary figure that a policy may lose where neither a budget nor a target is given."""

MOST_POINTS = 1000
"""Of a Pareto front."""
RANGES = ("minmax", "percentile", "mse")
NAMED = ("cost", "data", "method", "quantizer", "ranges", "repairs", "runtime", "task")
"""Settings that are names, or can be; all but ranges are looked up in a registry."""


def names_of(setting: str) -> tuple[str, ...]:
    """What a setting may be called; what other packages bring is imported for it."""
    if setting == "ranges":
        return RANGES
    known = tuple(getattr(entry, "form", name) for name, entry in registry_of(setting.removesuffix("s")).items())
    return (*known, "none") if setting == "runtime" else known


@dataclass(frozen=True)
class Flag:
    """How the command line writes a setting.

    Attributes:
        metavar: what stands for the value in the help; nothing for a switch.
        empty: what it means that there is no default.
        name: of the flag, where it is not the setting's.
        short: a second name, e.g. ``"-o"``.
        repeated: the flag can be given several times.
    """

    metavar: str
    empty: str = ""
    name: str = ""
    short: str = ""
    repeated: bool = False


def refused(wanted: str, hint: str = "") -> PydanticCustomError:
    """The fault of a value that must be something else; a hint stands behind the value."""
    return PydanticCustomError("wanted", "{wanted}", {"wanted": f"must be {wanted}", "hint": hint})


def one_of(setting: str, options: bool = False) -> AfterValidator:
    """Text, alone or in a list, must be one of the names of a setting, perhaps with options; anything else passes."""

    def check(value: Any) -> Any:
        for text in [value] if isinstance(value, str) else value if isinstance(value, tuple) else ():
            try:
                name, given = parsed(text) if options else (text, {})
            except InvalidInput:
                raise refused("a name, or a name with options, NAME?OPTION=VALUE") from None
            if name not in (known := names_of(setting)):
                raise refused(f"one of {', '.join(known)}", nearest(name, known))
            has = registry_of(setting)[name].options if given else {}
            for option in set(given) - set(has):
                listed = f"with an option that it has, {', '.join(has)}" if has else "without options"
                raise refused(f"given {listed}", nearest(option, has))
        return value

    return AfterValidator(check)


def with_attribute(name: str, what: str) -> AfterValidator:
    """Anything but text must have this attribute."""

    def check(value: Any) -> Any:
        if value is not None and not isinstance(value, str) and not hasattr(value, name):
            raise refused(what)
        return value

    return AfterValidator(check)


def numbers(separators: str) -> BeforeValidator:
    """``"2,3,4"`` as a list of whole numbers, one number as a list of one; the rest as it is."""

    def parse(value: Any) -> Any:
        if not isinstance(value, str):
            return [value] if isinstance(value, int) else value
        parts = re.split(rf"\s*[{separators}]\s*", value.strip("()[] "))
        if not all(part.isdecimal() for part in parts):
            shown = " or ".join(f"'{separator}'" for separator in separators)
            raise refused(f"whole numbers with {shown} between them")
        return [int(part) for part in parts]

    return BeforeValidator(parse)


def split_names(text: str) -> list[str]:
    """``"gptq,adaround"`` as a list of names, ``"none"`` as an empty one."""
    return [] if text.strip() == "none" else [part.strip() for part in text.split(",")]


def listed(value: Any) -> Any:
    """Text as a list of names; the rest as it is."""
    if not isinstance(value, str):
        return value
    names = split_names(value)
    if not all(names):
        raise refused("names with commas between them, or none")
    return names


def single(value: Any) -> Any:
    """One text as a list of one."""
    return [value] if isinstance(value, str) else value


Positive = Annotated[int, Field(ge=1, lt=2**31)]
Samples = Annotated[int, Field(ge=2, lt=2**31), Flag("N")]
Bits = Annotated[int, Field(ge=2, le=16)]
Function = Annotated[Any, with_attribute("__call__", "a function, or module:function")]


class Settings(BaseModel):
    """How a run goes; everything that it can be told beside its model, its data and its folder.

    ``quantizer`` may also be a PT2E ``Quantizer``. In Python, ``loss`` and ``metric`` are the functions
    themselves, and ``task`` may be a task (:mod:`bitwright.tasks`).

    Raises:
        InvalidInput: an unknown setting, or a value that cannot be used.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)

    budget: Annotated[tuple[str, ...], BeforeValidator(single), Flag("LIMIT", repeated=True)] = ()
    """E.g. bops=W4A4, size=60%, or size=250KB,bops=30% (both hold). Several budgets give one candidate each; the first
    one is exported."""
    target_drop: Annotated[
        Annotated[float, Field(ge=0, le=100)] | None, Flag("POINTS", empty=f"{DEFAULT_DROP:g} without a budget")
    ] = None
    """Points that may be lost (percent of a loss or a perplexity): the cheapest policy that loses no more is taken."""
    repairs: Annotated[tuple[str, ...], BeforeValidator(listed), one_of("repairs"), Flag("LIST")] = ("gptq", "adaround")
    """Repairs that may be tried so that a cheaper policy holds --target-drop, each alone, in this order; or none."""
    cost: Annotated[str, one_of("cost"), Flag("COST")] = "bops"
    """The cost that the Pareto front trades against harm."""
    pins: Annotated[dict[str, Bits | Literal["float"]], Flag("SITE=BITS", name="--pin", repeated=True)] = {}
    """Fix the bits of a site or of all sites that match a pattern, e.g. 'fc.*=8' or conv1=float."""
    points: Annotated[int, Field(ge=2, le=MOST_POINTS), Flag("N")] = 20
    """Points of the Pareto front."""
    rounds: Annotated[int, Field(ge=1, le=1000), Flag("N")] = 4
    """The most searches to make; each corrects its predictions by the measurements so far."""
    evaluations: Annotated[Positive | None, Flag("N", empty="as many as the searches need")] = None
    """The most policies to measure. With it, the search goes on measuring where a better policy may still be."""
    minutes: Annotated[Annotated[float, Field(ge=0.1)] | None, Flag("N", empty="no limit")] = None
    """The same by time: no further policy is measured after so many minutes."""
    bits: Annotated[
        tuple[Bits, ...],
        numbers(","),
        Field(min_length=1),
        AfterValidator(lambda value: tuple(sorted(set(value)))),
        Flag("LIST"),
    ] = (2, 3, 4, 5, 6, 8)
    """Bit widths that a site may get."""
    method: Annotated[str, one_of("method"), Flag("METHOD")] = "margin-fit"
    """How sites are scored; the search minimizes this."""
    score_samples: Samples = 512
    """How many of the calibration samples the scores are computed on."""
    holdout_samples: Samples = 512
    """Further samples of the calibration data; candidates are measured and ranked on them."""
    ranges: Annotated[str, one_of("ranges"), Flag("METHOD")] = "mse"
    """How ranges are set."""
    calibration_samples: Annotated[Positive, Flag("N")] = 512
    """Samples of the calibration data that set the ranges."""
    batch_size: Annotated[Positive, Flag("N")] = 64
    """Samples that run at once."""
    quantizer: Annotated[
        Any, one_of("quantizer", options=True), with_attribute("annotate", "a name or a PT2E Quantizer"), Flag("NAME")
    ] = "auto"
    """Where tensors are quantized: auto as edge, or as linear where run finds that better, and as xnnpack for the
    runtime executorch; edge-tensor has one step for each weight, linear leaves everything between linear layers in
    float, dynamic too, with the range of each tensor; layers quantizes what convolutions and linear layers read, for
    these alone; weight-only leaves all activations in float. Options stand behind the name:
    weight-only?group_size=64."""
    returns: Annotated[tuple[str, ...], BeforeValidator(listed), Flag("LIST", empty="all")] = ()
    """Outputs of the model to keep, by name or position, e.g. logits; the others are left out."""
    runtime: Annotated[str, one_of("runtime"), Flag("NAME")] = "onnxruntime"
    """What the model is exported for."""
    seed: Annotated[int, Field(ge=0, lt=2**32), Flag("N")] = 0
    """Seed of everything that is drawn at random."""
    task: Annotated[
        Any,
        with_attribute("judged_by", "the name of a task, module:Class, or a task"),
        Flag("NAME", empty="what outputs and targets look like"),
    ] = None
    """What the outputs mean: a named task, with options as in dense?ignore=255, or module:Class of your own."""
    loss: Annotated[Function, Flag("MODULE:FUNCTION", empty="the task's own")] = None
    """(outputs, targets) -> one loss for each sample."""
    metric: Annotated[Function, Flag("MODULE:FUNCTION", empty="the task's own figure")] = None
    """(outputs, targets) -> one number over all samples, larger is better. It decides in place of the task's own
    figure; 0.01 of it counts as a point."""

    def __init__(self, **given: Any) -> None:
        try:
            super().__init__(**given)
        except ValidationError as error:
            raise InvalidInput(fault(error, type(self).model_fields)) from error

    @property
    def placement(self) -> Any:
        """The quantizer, with what the runtime has in the place of ``auto``."""
        if self.quantizer != "auto" or self.runtime == "none":
            return self.quantizer
        return registry_of("runtime")[self.runtime].placement or self.quantizer

    @property
    def drop(self) -> float:
        """The target in points that holds where no budget was given."""
        return DEFAULT_DROP if self.target_drop is None else self.target_drop


DEFAULTS = Settings()
"""The defaults of the Python functions are these."""


_KINDS = {
    "int_": "a whole number",
    "float_": "a number",
    "bool_": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "tuple_type": "a list",
    "too_short": "a list with at least one entry",
}
"""Beginning of the type of pydantic's fault -> what was wanted."""


def fault(error: ValidationError, known: Iterable[str], source: Callable[[str], str] = lambda key: "") -> str:
    """One line about the first fault; unknown settings first, since a typo may cause the others."""
    faults = error.errors()
    first = next((e for e in faults if e["type"] == "extra_forbidden"), faults[0])
    key, rest = str(first["loc"][0]), first["loc"][1:]
    if first["type"] == "extra_forbidden":
        names = tuple(known)
        hint = nearest(key, names) or f"; the settings are {', '.join(names)}"
        return f"unknown setting '{key}'{source(key)}{hint}"
    kind = next((text for start, text in _KINDS.items() if first["type"].startswith(start)), None)
    wanted = f"must be {kind}" if kind else re.sub(r"^(Input|Value) should ", "must ", first["msg"])
    where = key
    if key == "pins":
        wanted = "must map sites to whole numbers of bits from 2 to 16, or to 'float'"
        where = f"pins['{rest[0]}']" if rest else key
    elif rest and isinstance(rest[0], int):
        wanted = f"holds a value that {wanted}"
    more = f" (and {len(faults) - 1} more)" if len({e["loc"][0] for e in faults}) > 1 else ""
    hint = first.get("ctx", {}).get("hint", "")
    return f"{where} {wanted}, got {reprlib.repr(first['input'])}{source(key)}{hint}{more}"


def flag_of(field: FieldInfo) -> Flag:
    """How the command line writes a field."""
    return next(entry for entry in field.metadata if isinstance(entry, Flag))


def flag_name(name: str, field: FieldInfo) -> str:
    """The flag that sets a field, e.g. ``--batch-size``."""
    return flag_of(field).name or f"--{name.replace('_', '-')}"


def default_of(field: FieldInfo) -> str:
    """A field's default in words; nothing where there is none."""
    value = field.default
    if value is False or value in (None, "", (), {}):
        return flag_of(field).empty
    return ",".join(str(part) for part in value) if isinstance(value, tuple) else str(value)
