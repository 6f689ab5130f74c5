"""Writes the tables of docs/reference/spec.md from the models; no key is missing or made up.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``. Run
``python docs/make_spec.py`` after changing a model; a test compares the page
with what this would write.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cnnbench.errors import quoted
from cnnbench.layers import OPERATIONS
from cnnbench.spec.experiment import (
    CheckpointSpec,
    DatasetSpec,
    Experiment,
    ModelSpec,
    Splits,
    TrainSpec,
)
from cnnbench.spec.metrics import METRICS
from cnnbench.spec.optimizers import OPTIMIZERS, SCHEDULES

PAGE = Path(__file__).parent / "reference" / "spec.md"
SECTIONS: dict[str, type[BaseModel]] = {
    "experiment": Experiment,
    "dataset": DatasetSpec,
    "splits": Splits,
    "model": ModelSpec,
    "train": TrainSpec,
    "checkpoint": CheckpointSpec,
}


def default_text(field: FieldInfo) -> str:
    """What a key is when it is left out."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=False)
    if value is PydanticUndefined or value in (None, ""):
        return ""
    if isinstance(value, BaseModel):
        return f"`{value.name}`" if hasattr(value, "name") else "as below"
    return f"`{quoted(value).replace(chr(39), '')}`"


def key_rows(model: type[BaseModel], hidden: tuple[str, ...] = ()) -> list[str]:
    """A row for each key."""
    return [
        f"| `{key}` | {default_text(field)} | {field.description} |"
        for key, field in model.model_fields.items()
        if key not in hidden
    ]


def summary(model: type[BaseModel]) -> str:
    """The first line of a docstring."""
    return str(model.__doc__).partition("\n")[0]


def member_tables(members: Mapping[str, type[BaseModel]], hidden: tuple[str, ...]) -> list[str]:
    """A heading, a sentence and a table for each member of a union."""
    lines: list[str] = []
    for name, model in members.items():
        rows = key_rows(model, hidden)
        table = ["", "| Key | Default | Meaning |", "|---|---|---|", *rows] if rows else []
        lines += [f"**`{name}`**: {summary(model)}", *table, ""]
    return lines[:-1]


def metric_rows() -> list[str]:
    """A row for each metric that a file can ask for."""
    rows = [
        f"| `{metric.name}` | {', '.join(metric.tasks)} |"
        f" {'higher' if metric.higher_is_better else 'lower'} | {metric.description} |"
        for metric in METRICS.values()
        if metric.tasks
    ]
    return ["| Metric | Task | Better | Meaning |", "|---|---|---|---|", *rows]


def table(name: str) -> str:
    """The text between the markers of a table."""
    match name:
        case "operations":
            lines = member_tables(OPERATIONS, ("op", "inputs"))
        case "optimizers":
            lines = member_tables(OPTIMIZERS, ("name",))
        case "schedules":
            lines = member_tables(SCHEDULES, ("name",))
        case "metrics":
            lines = metric_rows()
        case _:
            lines = ["| Key | Default | Meaning |", "|---|---|---|", *key_rows(SECTIONS[name])]
    return "\n".join(lines)


def render(page: str) -> str:
    """The page with every table made anew."""
    pattern = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)
    return pattern.sub(lambda m: f"{m[1]}{table(m[2])}\n{m[3]}", page)


if __name__ == "__main__":
    PAGE.write_text(render(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
