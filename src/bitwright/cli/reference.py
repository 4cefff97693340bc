"""The page ``docs/settings.md``, made from the settings: ``python -m bitwright.cli.reference > docs/settings.md``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bitwright.cli.job import JOB_FILE, Job, fields
from bitwright.cli.main import COMMANDS
from bitwright.cli.options import meaning
from bitwright.settings import default_of, flag_name, flag_of

INTRODUCTION = f"""# Settings

Every setting is a key of the job file (`{JOB_FILE}`) and a flag of the commands that use it. Flags win over the job
file; pins from both add up. Paths in a job file are relative to its folder. `bitwright.settings.Settings` takes the
same keys, and the functions of the Python package have the same defaults.

This page is made from the settings themselves, with `python -m bitwright.cli.reference`.
"""


def page() -> str:
    """The whole page."""
    schemas = Job.model_json_schema()["properties"]
    lines = [INTRODUCTION, "| key | flag | value | default | meaning |", "|---|---|---|---|---|"]
    for name, field in fields().items():
        flag, default = f"{flag_name(name, field)} {flag_of(field).metavar}".rstrip(), default_of(field)
        shown = f"`{default}`" if default != flag_of(field).empty else default
        lines.append(f"| `{name}` | `{flag}` | {values(schemas[name])} | {shown} | {meaning(name)} |")
    lines += ["", "Which command uses which:", "", "| command | settings |", "|---|---|"]
    for command in COMMANDS:
        if used := getattr(command, "settings", ()):  # set by takes_job
            lines.append(f"| `{command.__name__}` | {', '.join(f'`{name}`' for name in used)} |")
    return "\n".join([*lines, ""])


def values(schema: Mapping[str, Any]) -> str:
    """What a setting may be, in words."""
    schema = next((part for part in schema.get("anyOf", ()) if part.get("type") != "null"), schema)
    kind, low, high = (schema.get(key) for key in ("type", "minimum", "maximum"))
    if kind == "array":
        return f"list: {values(schema['items'])}"
    if kind == "object":
        return f"table: {values(schema['additionalProperties'])}, or float, for each site"
    if low is None:
        return "true or false" if kind == "boolean" else "text"
    number = "whole number" if kind == "integer" else "number"
    return f"{number}, at least {low}" if high is None else f"{number}, {low} to {high}"


if __name__ == "__main__":
    print(page(), end="")
