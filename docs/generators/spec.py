"""Tables of docs/reference/spec.md, from the models of experiment files."""

from collections.abc import Mapping

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from cnnbench.errors import quoted
from cnnbench.layers import OPERATIONS
from cnnbench.layers.parameters import INITIALIZERS
from cnnbench.spec.experiment import (
    AUGMENTATIONS,
    Augment,
    CheckpointSpec,
    Clip,
    DatasetSpec,
    EarlyStopping,
    Ema,
    Evaluation,
    Experiment,
    ImbalanceSpec,
    LabelNoiseSpec,
    ModelSpec,
    Splits,
    SubsetSpec,
    TrainSpec,
)
from cnnbench.spec.metrics import METRICS
from cnnbench.spec.optimizers import OPTIMIZERS, SCHEDULES, ParameterGroup
from generators.markdown import code, rows, summary

SECTIONS: dict[str, type[BaseModel]] = {
    "experiment": Experiment,
    "dataset": DatasetSpec,
    "splits": Splits,
    "subset": SubsetSpec,
    "imbalance": ImbalanceSpec,
    "label_noise": LabelNoiseSpec,
    "augment": Augment,
    "clip": Clip,
    "ema": Ema,
    "group": ParameterGroup,
    "early_stopping": EarlyStopping,
    "model": ModelSpec,
    "train": TrainSpec,
    "evaluation": Evaluation,
    "checkpoint": CheckpointSpec,
}


def default_text(field: FieldInfo) -> str:
    """The default of a key, as a cell."""
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=False)
    if value is PydanticUndefined or value in (None, ""):
        return ""
    if isinstance(value, BaseModel):
        return f"`{value.name}`" if hasattr(value, "name") else "as below"
    return f"`{quoted(value).replace(chr(39), '')}`"


def key_table(model: type[BaseModel], hidden: tuple[str, ...] = ()) -> str:
    """A row for each key; empty if there is none."""
    lines = [
        (code(key), default_text(field), str(field.description))
        for key, field in model.model_fields.items()
        if key not in hidden
    ]
    return rows(("Key", "Default", "Meaning"), lines) if lines else ""


def member_tables(members: Mapping[str, type[BaseModel]], hidden: tuple[str, ...]) -> str:
    """A heading, a sentence and a table for each member of a union."""
    parts: list[str] = []
    for name, model in members.items():
        parts += [f"#### `{name}`", summary(model), key_table(model, hidden)]
    return "\n\n".join(part for part in parts if part)


def metric_table() -> str:
    """A row for each metric that a file can request."""
    lines = [
        (
            code(metric.name),
            ", ".join(metric.tasks),
            "higher" if metric.higher_is_better else "lower",
            metric.description,
        )
        for metric in METRICS.values()
        if metric.tasks
    ]
    return rows(("Metric", "Task", "Better", "Meaning"), lines)


def table(name: str) -> str:
    """Render the table of a name."""
    match name:
        case "operations":
            return member_tables(OPERATIONS, ("op", "inputs"))
        case "optimizers":
            return member_tables(OPTIMIZERS, ("name",))
        case "schedules":
            return member_tables(SCHEDULES, ("name",))
        case "initializers":
            return member_tables(INITIALIZERS, ("name",))
        case "augmentations":
            return member_tables(AUGMENTATIONS, ())
        case "metrics":
            return metric_table()
        case _:
            return key_table(SECTIONS[name])
