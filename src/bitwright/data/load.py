"""Data by name: ``load_data("cifar10:~/data/cifar10?limit=512")``.

A data spec is ``KIND``, ``KIND:PATH`` or ``KIND:PATH?OPTION=VALUE&OPTION=VALUE``:

| spec | data |
|---|---|
| ``digits`` | scikit-learn's 1,797 handwritten digits, 8x8, no download |
| ``cifar10:DIR`` | ``train.npz`` and ``test.npz``, or the python version of CIFAR-10 as published |
| ``mnist:DIR`` | ``train.npz`` and ``test.npz``, or the idx files as published, gzipped or not |
| ``imagefolder:DIR`` | ``DIR/train/CLASS/*.png`` and ``DIR/test`` or ``DIR/val``; also .jpg and .jpeg |
| ``npz:FILE`` | ``x_calibration``, ``y_calibration``, ``x_evaluation``, ``y_evaluation``; or ``x``, ``y`` |

| option | meaning | default |
|---|---|---|
| ``limit=N`` | at most N samples in each part | all |
| ``shuffle=SEED`` | each part in a fixed random order, before ``limit`` | ``none``; imagefolder: 0 |
| ``mean=M,M,M`` | subtracted from each channel, after scaling to [0, 1] | that of the data set |
| ``std=S,S,S`` | what each channel is then divided by | that of the data set |
| ``size=N`` | imagefolder: height and width of the centre crop | 224 |
| ``resize=N`` | imagefolder: length of the shorter side before the crop | size x 256 / 224 |

Calibration data comes from training parts only, evaluation data from test parts only. Nothing is read before it
is needed, but missing folders and files are reported at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bitwright.data.array_dataset import Preparation
from bitwright.data.dataset import DataSets
from bitwright.data.source import DATA
from bitwright.errors import InvalidInput, nearest
from bitwright.registry import split_options

COMMON = ("limit", "shuffle", "mean", "std")


def load_data(spec: str) -> DataSets:
    """Return the data that ``spec`` names: see the module's tables.

    Raises:
        InvalidInput: the kind or an option is unknown (the nearest one is suggested), a value is unusable, or
            the path is missing.
        InvalidData: the data itself is unusable.
        MissingExtra: the data needs a package that is not installed.
    """
    text, given = split_options(spec)
    kind, colon, path = text.partition(":")
    if kind not in DATA:
        forms = ", ".join(source.form for source in DATA.values())
        raise InvalidInput(f"unknown data '{kind}'{nearest(kind, DATA)} (there are: {forms})")
    source = DATA[kind]
    options = Options.of(spec, given, (*COMMON, *source.options))
    if not source.path and colon:
        raise InvalidInput(f"{kind} takes no path, got '{text}'")
    if source.path and not path:
        raise InvalidInput(f"{kind} needs a path: {source.form}")
    place = Path(path).expanduser() if source.path else None
    if place is not None and not place.exists():
        raise InvalidInput(f"no {'file' if source.path == 'FILE' else 'folder'} at {place} (data '{spec}')")
    own: dict[str, Any] = {key: options.whole(key, 1, 1) for key in source.options if key in options.values}
    return source.function(place, options.preparation(source.shuffle), **own)


@dataclass(frozen=True)
class Options:
    """The options of a spec, as text; each method reads one kind of value."""

    spec: str
    values: dict[str, str]

    @classmethod
    def of(cls, spec: str, given: dict[str, str], known: tuple[str, ...]) -> Options:
        """The options of a spec, each of them known."""
        for key in given:
            if key not in known:
                hint = nearest(key, known)
                raise InvalidInput(f"unknown option '{key}' in '{spec}'{hint} (known: {', '.join(known)})")
        return cls(spec, given)

    def whole(self, key: str, default: int, least: int) -> int:
        """A whole number."""
        text = self.values.get(key)
        if text is None:
            return default
        if not text.isdecimal() or int(text) < least:
            raise InvalidInput(f"{key} must be a whole number, at least {least}, got '{text}' in '{self.spec}'")
        return int(text)

    def numbers(self, key: str) -> tuple[float, ...] | None:
        """Numbers with commas between; None where not given."""
        text = self.values.get(key)
        if text is None:
            return None
        try:
            numbers = tuple(float(part) for part in text.split(","))
        except ValueError:
            numbers = (float("nan"),)
        if not all(abs(number) < float("inf") for number in numbers) or (key == "std" and min(numbers) <= 0):
            kind = "positive numbers" if key == "std" else "numbers"
            raise InvalidInput(f"{key} must be {kind} with commas between, got '{text}' in '{self.spec}'")
        return numbers

    def preparation(self, shuffle: int | None) -> Preparation:
        """Order, number and normalisation of the samples."""
        if "shuffle" in self.values:
            unshuffled = self.values["shuffle"] == "none"
            shuffle = None if unshuffled else self.whole("shuffle", default=0, least=0)
        limit = self.whole("limit", default=1, least=1) if "limit" in self.values else None
        return Preparation(limit, shuffle, self.numbers("mean"), self.numbers("std"))
