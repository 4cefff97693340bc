"""Names of sites: the user's module paths, stable from run to run."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.fx import Node

from bitwright.graph.operations import kind_of

_CONTAINERS = {"Sequential", "ModuleList", "ModuleDict"}


def module_path(node: Node) -> tuple[str, str]:
    """The innermost module that a node belongs to: (path, class name); ("", "") outside of any."""
    stack = node.meta.get("nn_module_stack") or {}
    entries = [entry for entry in stack.values() if isinstance(entry, tuple) and len(entry) == 2]
    if not entries:
        return "", ""
    path, kind = entries[-1]
    class_name = kind if isinstance(kind, str) else f"{kind.__module__}.{kind.__qualname__}"
    # Behind "@" is the number of the call, for a module that is called several times.
    return str(path).partition("@")[0].removeprefix("L['self'].").removeprefix("L__self___"), class_name


def attribute_at(module: nn.Module, path: str) -> Any:
    """What stands at a dotted path, as the targets of ``get_attr`` nodes are: a parameter or a buffer."""
    owner, _, name = path.rpartition(".")
    return getattr(module.get_submodule(owner), name)


def layer_name(node: Node) -> str:
    """Name of an operation and of the value that it makes, before it is made unique.

    The path of the module when the module is a layer (``layer1.0.relu``); the path and the operation when it was
    written in the ``forward`` of a block (``layer1.0.add``); the argument's name for a network input.
    """
    if node.op == "placeholder":
        return str(node.target)
    path, class_name = module_path(node)
    is_layer = class_name.startswith("torch.nn.modules.") and class_name.rsplit(".", 1)[-1] not in _CONTAINERS
    if path and is_layer:
        return path
    return f"{path}.{kind_of(node)}" if path else kind_of(node)


class Names:
    """Hands out unique names: the second ``layer1.0.relu`` is ``layer1.0.relu_1``."""

    def __init__(self) -> None:
        self._seen: dict[str, int] = {}

    def unique(self, name: str) -> str:
        """``name``, or ``name_1``, ``name_2``, ... if it was handed out before."""
        count = self._seen.get(name)
        self._seen[name] = 0 if count is None else count + 1
        if count is None:
            return name
        return self.unique(f"{name}_{count + 1}")
