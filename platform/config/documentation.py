"""Pages that are made from the code, so that they cannot tell anything else than it does."""

from pathlib import Path
from typing import Any

from django.conf import settings

from trainer.contract.exits import ADVICE, REASON, ExitCode
from trainer.contract.hyperparameters import Hyperparameters
from trainer.contract.tasks import MODELS
from trainer.contract.variables import SECRET_NAMES, TrainerEnvironment

GENERATED = "Made by `make docs`; edit the code it is made from instead."


def pages() -> dict[Path, str]:
    """Every generated file, by its path below the repository."""
    return {
        Path(".env.example"): env_example(),
        Path("docs/variables.md"): variables_page(),
        Path("docs/exit-codes.md"): exit_codes_page(),
    }


def env_example() -> str:
    """The platform's own settings with their defaults, each commented out: a copy changes nothing until edited."""
    lines = [
        f"# The platform's settings. {GENERATED}",
        "# Copy to .env and take the # away where you want another value.",
    ]
    for variable in settings.ENV.variables.values():
        lines += ["", f"# {variable.about}", f"#{variable.name}={variable.default}"]
    return "\n".join(lines) + "\n"


def variables_page() -> str:
    lines = ["# The trainer's environment", "", f"{GENERATED} Definition: `trainer/contract/variables.py`.", ""]
    lines += ["A trainer takes everything from these variables. An empty one counts as not set.", ""]
    groups: dict[str, list[str]] = {}
    for name, field in TrainerEnvironment.model_fields.items():
        extra: dict[str, Any] = dict(field.json_schema_extra)  # type: ignore[arg-type]
        default = "**required**" if field.is_required() else _shown(field.default)
        row = f"| `{name}` | {_type(name, field)} | {default} | {field.description} |"
        groups.setdefault(extra["group"], []).append(row)
    for group, rows in groups.items():
        lines += [f"## {group}", "", "| variable | type | default | meaning |", "| --- | --- | --- | --- |", *rows, ""]
    lines += [
        "## `HYPERPARAMETERS`",
        "",
        "Names and meanings are ultralytics' own; what is left out keeps its default.",
        "",
    ]
    lines += ["| name | meaning | bounds |", "| --- | --- | --- |"]
    lines += [f"| `{name}` | {f.description} | {_bounds(name)} |" for name, f in Hyperparameters.model_fields.items()]
    lines += ["", "## Models by task", "", "| task | models |", "| --- | --- |"]
    lines += [f"| `{task}` | {', '.join(models)} |" for task, models in MODELS.items()]
    return "\n".join(lines) + "\n"


def exit_codes_page() -> str:
    lines = ["# Exit codes of the trainer", "", f"{GENERATED} Definition: `trainer/contract/exits.py`.", ""]
    lines += ["| code | meaning | what to do |", "| --- | --- | --- |"]
    own = {
        ExitCode.SUCCEEDED: "Nothing: the training ended as planned.",
        ExitCode.INTERRUPTED: "It was told to stop, by a signal or by the platform; the last checkpoint is stored.",
        ExitCode.SUPERSEDED: "The platform no longer wants this attempt: a newer one runs, or the job is gone.",
    }
    for code in sorted(ExitCode):
        advice = own[code] if code in own else ADVICE[REASON[code]]
        lines.append(f"| {code.value} | `{code.name.lower()}` | {advice} |")
    lines += ["", "A trainer that a signal ends has no exit code: the platform records the signal instead."]
    return "\n".join(lines) + "\n"


def _schema(model: Any, name: str) -> dict[str, Any]:
    schema: dict[str, Any] = model.model_json_schema()["properties"][name]
    return schema


def _type(name: str, field: Any) -> str:
    if name in SECRET_NAMES:
        return "text, secret"
    parts = _parts(_schema(TrainerEnvironment, name), TrainerEnvironment.model_json_schema().get("$defs", {}))
    return "; ".join(part for part in parts if part != "null")


def _bounds(name: str) -> str:
    return "; ".join(part for part in _parts(_schema(Hyperparameters, name), {}) if part != "null")


def _parts(schema: dict[str, Any], definitions: dict[str, Any]) -> list[str]:
    """A JSON schema in words, one part for each alternative."""
    if "$ref" in schema:
        return _parts(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "anyOf" in schema:
        return [part for each in schema["anyOf"] for part in _parts(each, definitions)]
    if "enum" in schema or "const" in schema:
        return [", ".join(f"`{value}`" for value in schema.get("enum", [schema.get("const")]))]
    words = {"string": "text", "integer": "whole number", "object": "JSON object", "boolean": "true or false"}
    kind = words.get(schema.get("type", ""), schema.get("type", "text"))
    limits = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "multipleOf": "multiple of",
    }
    said = [f"{word} {schema[key]:g}" for key, word in limits.items() if key in schema]
    return [" ".join([kind, *([", ".join(said)] if said else [])])]


def _shown(default: Any) -> str:
    return f"`{default}`" if default not in (None, "", {}) else "–"
