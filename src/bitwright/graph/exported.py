"""Files that ``torch.export.save`` wrote, read without running anything that stands in them.

``torch.export.load`` trusts its file: it unpickles what the archive asks it to, evaluates sizes as Python expressions,
loads compiled libraries and makes Python code from the names of the graph. So the archive is taken apart first, every
string of its program is checked against what torch writes there, and a new archive of the checked parts alone is
handed to torch.
"""

from __future__ import annotations

import ast
import io
import json
import keyword
import re
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from bitwright.errors import InvalidInput
from bitwright.graph.pt2e import quiet

_FRAME = ("archive_format", "archive_version", "byteorder", ".data/version")
"""What tells torch how to read the rest."""
_PROGRAM = "models/model.json"
_SAMPLES = "data/sample_inputs/model.pt"
_FOLDERS = {"weights": "weight_", "constants": "tensor_"}
"""Folders of raw tensors under ``data/``, and how the files in them begin."""

_NAMESPACES = ("aten", "prims", "quantized", "quantized_decomposed", "torchao", "torchvision")
_HIGHER_ORDER = ("wrap_with_set_grad_enabled", "wrap_with_autocast", "cond", "while_loop", "map_impl", "scan")
_FILES = ("aten.from_file", "aten.save")
_ON_SIZES = re.compile(
    r"_operator\.(getitem|eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|truediv|mod|pow|and_|or_|lshift|rshift)"
    r"|math\.(trunc|ceil|floor)|torch\.sym_(not|int|float|ite|max|min|sum|sqrt)"
)
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict")
_SIZE_FUNCTIONS = """
    Symbol Integer Float Rational Add Mul Pow Mod Max Min Abs And Or Not Piecewise ExprCondPair Tuple floor ceiling
    Equality Unequality Eq Ne StrictLessThan StrictGreaterThan LessThan GreaterThan FloorDiv ModularIndexing Where
    PythonMod CleanDiv CeilToInt FloorToInt CeilDiv LShift RShift PowByNatural Identity FloatPow FloatTrueDiv
    IntTrueDiv TruncToFloat TruncToInt RoundToInt RoundDecimal ToFloat
"""
_SIZE_SYNTAX = (
    *(ast.Expression, ast.Call, ast.keyword, ast.Name, ast.Load, ast.Constant),
    *(ast.BinOp, ast.UnaryOp, ast.Compare, ast.operator, ast.unaryop, ast.cmpop),
)
_PLAIN = re.compile(r"[\w.+\-]*")


def load_exported(path: Path, trust: bool = False) -> ExportedProgram:
    """Read an exported program.

    Args:
        path: a file that ``torch.export.save`` wrote.
        trust: read it with ``torch.export.load`` as it is, which may run code that the file holds.

    Raises:
        InvalidInput: there is no such file, it is not an exported program, or reading it could run code.
    """
    if not path.is_file():
        raise InvalidInput(f"there is no model file '{path}'")
    try:
        with quiet():
            return torch.export.load(path if trust else _checked(path))
    except InvalidInput:
        raise
    except Exception as error:
        reason = (str(error).strip().splitlines() or [""])[0]
        raise InvalidInput(
            f"'{path}' cannot be read as an exported model: {type(error).__name__}: {reason}; write it with "
            "torch.export.save(torch.export.export(...), path)"
        ) from error


class _Unsafe(Exception):
    """What in a file could run code."""


def _checked(path: Path) -> io.BytesIO:
    """A new archive from the parts of a file that hold data alone."""
    try:
        with zipfile.ZipFile(path) as archive:
            parts = _parts(archive)
    except _Unsafe as error:
        raise InvalidInput(
            f"'{path}' holds {error}, and reading that could run code; name the model as module:factory, or "
            "pass --trust if the file is your own"
        ) from None
    built = io.BytesIO()
    with zipfile.ZipFile(built, "w", zipfile.ZIP_STORED) as archive:
        for name, content in parts.items():
            archive.writestr(f"model/{name}", content)
    built.seek(0)
    return built


def _parts(archive: zipfile.ZipFile) -> dict[str, bytes]:
    """Name in the archive, without its root folder -> content, of everything that a program needs."""
    names = {name.partition("/")[2]: name for name in archive.namelist()}
    if "serialized_exported_program.json" in archive.namelist():
        raise _Unsafe("the layout of torch 2.7 or older, whose weights are pickled")
    if _PROGRAM not in names:
        raise ValueError(f"there is no {_PROGRAM} in it")
    parts = {name: archive.read(names[name]) for name in _FRAME if name in names}
    program = json.loads(archive.read(names[_PROGRAM]))
    program["guards_code"] = []  # Python code that checks inputs; Bitwright checks them itself
    _check(program)
    parts[_PROGRAM] = json.dumps(program).encode()
    for folder, prefix in _FOLDERS.items():
        table = f"data/{folder}/model_{folder}_config.json"
        if f"data/{folder}/model.pt" in names:
            raise _Unsafe(f"pickled {folder}")
        described = json.loads(archive.read(names[table]))
        _check(described)
        for tensor, entry in described["config"].items():
            file = entry["path_name"]
            if entry["use_pickle"] or not file.startswith(prefix):
                raise _Unsafe(f"the pickled object '{tensor}' among its {folder}")
            parts[f"data/{folder}/{file}"] = archive.read(names[f"data/{folder}/{file}"])
        parts[table] = json.dumps(described).encode()
    parts[_SAMPLES] = _plain_samples(archive.read(names[_SAMPLES])) if _SAMPLES in names else b""
    return parts


def _plain_samples(content: bytes) -> bytes:
    """Sample inputs written anew where they are tensors and containers; otherwise none, since nothing needs them."""
    try:
        samples = torch.load(io.BytesIO(content), weights_only=True)
    except Exception:  # a damaged or hostile pickle can raise anything
        return b""
    written = io.BytesIO()
    torch.save(samples, written)
    return written.getvalue()


def _check(value: Any, key: str = "") -> None:
    """Raise :class:`_Unsafe` for a string in a part of the program's JSON that torch could run.

    ``key`` is what the part stands under. Notes on the source code are dropped, all but the modules.
    """
    if isinstance(value, dict):
        if key == "metadata":
            stack = str(value.get("nn_module_stack", ""))
            value.clear()
            value.update({"nn_module_stack": stack.replace("\n", " ")} if stack else {})
            return
        for name, inner in value.items():
            _match(name, "the key")
            _check(inner, name)
    elif isinstance(value, list):
        for inner in value:
            _check(inner, key)
    elif isinstance(value, str):
        _check_text(value, key)


def _check_text(text: str, key: str) -> None:
    if key in ("as_string", "as_strings"):  # arguments of operations; torch writes them into code as literals
        return
    if key in ("target", "as_operator"):
        _check_operation(text)
    elif key in ("in_spec", "out_spec"):
        _check_containers(json.loads(text)[1])
    elif key == "expr_str":
        _check_size(text)
    elif (
        key in ("name", "as_name", "forward_arg_names")
        and text
        and (not text.isidentifier() or keyword.iskeyword(text))
    ):
        raise _Unsafe(f"the name {text[:40]!r}")
    else:
        _match(text, "the text")


def _match(text: str, what: str) -> None:
    if not _PLAIN.fullmatch(text):
        raise _Unsafe(f"{what} {text[:40]!r}")


def _check_operation(target: str) -> None:
    path = target.split(".")
    found: Any = torch
    if path[:2] == ["torch", "ops"] and len(path) in (4, 5) and ".".join(path[2:4]) not in _FILES:
        if path[2] in _NAMESPACES or (path[2] == "higher_order" and path[3] in _HIGHER_ORDER):
            for name in path[1:]:
                found = getattr(found, name, None)
            if isinstance(found, (torch._ops.OpOverload, torch._ops.HigherOrderOperator)):
                return
    elif _ON_SIZES.fullmatch(target):
        return
    raise _Unsafe(f"the operation '{target[:60]}'")


def _check_containers(spec: Any) -> None:
    """Inputs and outputs in containers of Python's own; the keys of dictionaries become names in code."""
    if spec["type"] is not None and spec["type"] not in _CONTAINERS:
        raise _Unsafe(f"inputs or outputs of the type '{spec['type']}'")
    for name in json.loads(spec["context"] or "null") or ():
        _match(str(name), "the key")
    for inner in spec["children_spec"]:
        _check_containers(inner)


def _check_size(text: str) -> None:
    """Sizes are evaluated as Python by sympy: only arithmetic and torch's own functions of sizes may stand there."""
    try:
        tree = ast.parse(text, mode="eval")
    except SyntaxError:
        raise _Unsafe(f"the size {text[:40]!r}") from None
    for node in ast.walk(tree):
        fine = isinstance(node, _SIZE_SYNTAX)
        if isinstance(node, ast.Call):
            fine = isinstance(node.func, ast.Name) and node.func.id in _SIZE_FUNCTIONS.split()
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            fine = _PLAIN.fullmatch(node.value) is not None
        if not fine:
            raise _Unsafe(f"the size {text[:40]!r}")
