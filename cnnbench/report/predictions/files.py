"""Predictions as a table, Markdown, CSV and JSON."""

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never

from cnnbench.analysis.predict import Answer, Guess, LabelSet, Reconstruction, Regression
from cnnbench.data.own.image_files import MIDDLE, PreparedImage
from cnnbench.formatting import clean, csv_cell, escape_markdown
from cnnbench.report.plots.terminal_image import ImageGroup
from cnnbench.report.table import WrappedTable, markdown_table
from cnnbench.runs import codec
from cnnbench.runs.records import RunRecord


@dataclass(frozen=True, slots=True)
class Predictions:
    """Predictions of a run's networks for image files.

    Args:
      record: the run.
      seeds: the seeds whose networks were used.
      loss: name of the experiment's loss.
      photographs: the files, preprocessed for the networks.
      answers: a prediction for each file.
    """

    record: RunRecord
    seeds: tuple[int, ...]
    loss: str
    photographs: Sequence[PreparedImage]
    answers: Sequence[Answer]


def title(found: Predictions) -> str:
    """Title: the run and its seeds."""
    count = len(found.seeds)
    whose = f"seed {found.seeds[0]}" if count == 1 else f"mean over {count} seeds"
    views = found.record.test_augment
    augmented = f", with test-time augmentation ({views})" if views else ""
    return f"{clean(found.record.title)} ({found.record.run_id}), {whose}{augmented}"


def seen_as(photograph: PreparedImage) -> tuple[str, str, str]:
    """Preprocessing of a file: its name, sizes and inversion."""
    height, width, _ = photograph.pixels.shape
    size = f"{photograph.width}x{photograph.height}"
    scaled = "" if size == f"{width}x{height}" else f", to {width}x{height}"
    border = f"{'light' if photograph.border > MIDDLE else 'dark'} border ({photograph.border:.0f})"
    swapped = "inverted" if photograph.inverted else "unchanged"
    return clean(photograph.file), f"{size}{scaled}", f"{border}: {swapped}"


def pictures(found: Predictions) -> list[ImageGroup]:
    """Network inputs, each next to the first seed's reconstruction if there is one."""
    shown = []
    for photograph, answer in zip(found.photographs, found.answers, strict=True):
        caption, images = list(seen_as(photograph)), [photograph.pixels]
        if isinstance(answer, Reconstruction):
            caption.append(f"reconstruction by seed {found.seeds[0]}")
            images.append(answer.pixels)
        shown.append(ImageGroup(caption, images))
    return shown


def answer_text(found: Predictions, answer: Answer) -> str:
    """A prediction in a few words."""
    name = found.record.dataset.class_name
    match answer:
        case Guess():
            return f"{name(answer.predicted)} ({percent(answer.probability)})"
        case Reconstruction():
            return f"squared error {answer.squared_error:.4g}"
        case Regression():
            return ", ".join(f"{column} {text}" for column, text in _values(found, answer).items())
        case LabelSet():
            return _labels(found, answer)
        case _:
            assert_never(answer)


def _values(found: Predictions, answer: Regression) -> dict[str, str]:
    """Predicted targets by name."""
    names = found.record.dataset.target_names(len(answer.values))
    return {name: f"{value:.4g}" for name, value in zip(names, answer.values, strict=True)}


def _labels(found: Predictions, answer: LabelSet) -> str:
    """Predicted labels with their probabilities; `none` without any."""
    name = found.record.dataset.class_name
    parts = (f"{name(label)} ({percent(answer.probabilities[label])})" for label in answer.labels)
    return ", ".join(parts) or "none"


def table(found: Predictions) -> WrappedTable:
    """A row for each file."""
    return table_of(_grid(found))


def table_of(grid: Sequence[Sequence[str]]) -> WrappedTable:
    """A table whose first column may be wrapped.

    Args:
      grid: the cells, headers first.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    header, *rows = grid
    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False, collapse_padding=True)
    for number, name in enumerate(header):
        drawn.add_column(name, justify="right" if number else "left", no_wrap=number > 0)
    for row in rows:
        drawn.add_row(*map(Text, row))
    return WrappedTable(drawn)


def markdown(found: Predictions) -> str:
    """The table in Markdown."""
    header, *rows = ([escape_markdown(cell) for cell in row] for row in _grid(found))
    return f"{escape_markdown(title(found))}:\n\n{markdown_table(header, rows)}"


def csv_text(found: Predictions) -> str:
    """CSV: a header and a row for each file, unrounded."""
    return csv_of(_entries(found))


def csv_of(entries: Sequence[Mapping[str, object]]) -> str:
    """CSV of entries without their lists.

    Args:
      entries: fields by name, the same names in each.
    """
    text = io.StringIO()
    rows = [
        {name: value for name, value in entry.items() if not isinstance(value, tuple)}
        for entry in entries
    ]
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def json_text(found: Predictions) -> str:
    """JSON: everything, unrounded, with the prediction of each seed."""
    return json_of(found, _entries(found))


def json_of(found: Predictions, images: Iterable[Mapping[str, object]], **counts: int) -> str:
    """JSON of predictions.

    Args:
      found: the predictions.
      images: fields of each image.
      counts: numbers of images.
    """
    whole = {
        "run_id": found.record.run_id,
        "name": found.record.name,
        "seeds": found.seeds,
        "loss": found.loss,
        **counts,
        "test_augment": found.record.test_augment or None,
        "images": tuple(images),
    }
    return codec.encode_document(whole).decode()


def _grid(found: Predictions) -> list[list[str]]:
    """Cells of a table, headers first."""
    rows = []
    for photograph, answer in zip(found.photographs, found.answers, strict=True):
        row = {"Image": clean(photograph.file), **cells(found, answer)}
        rows.append(row | {"Inverted": "yes" if photograph.inverted else "no"})
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def cells(found: Predictions, answer: Answer) -> dict[str, str]:
    """Cells of a prediction by column."""
    name, count = found.record.dataset.class_name, len(found.seeds)
    match answer:
        case Guess():
            second = f"{name(answer.runner_up)} ({percent(answer.runner_up_probability)})"
            return {
                "Class": name(answer.predicted),
                "Probability": percent(answer.probability),
                "Runner-up": second,
                **({"Agreement": f"{answer.agreement} of {count}"} if count > 1 else {}),
            }
        case Reconstruction():
            named = f"Loss ({found.loss.replace('_', ' ')})"
            return {
                "Squared error": f"{answer.squared_error:.4g}",
                **({named: f"{answer.loss:.4g}"} if found.loss != "mse" else {}),
            }
        case Regression():
            return _values(found, answer)
        case LabelSet():
            return {"Labels (probability)": _labels(found, answer)}
        case _:
            assert_never(answer)


def _entries(found: Predictions) -> list[Mapping[str, object]]:
    """Fields of each file, by name."""
    return [
        {
            "image": photograph.file,
            "width": photograph.width,
            "height": photograph.height,
            "border": photograph.border,
            "inverted": photograph.inverted,
            **fields(found, answer),
        }
        for photograph, answer in zip(found.photographs, found.answers, strict=True)
    ]


def fields(found: Predictions, answer: Answer) -> dict[str, object]:
    """Fields of a prediction by name, with names of classes."""
    return _fields(found, answer) | _class_names(found.record, answer)


def _fields(found: Predictions, answer: Answer) -> dict[str, object]:
    dataset = found.record.dataset
    match answer:
        case Reconstruction():
            return {"loss": answer.loss, "squared_error": answer.squared_error}
        case Regression():
            names = dataset.target_names(len(answer.values))
            return dict(zip(names, answer.values, strict=True)) | {"by_seed": answer.by_seed}
        case LabelSet():
            names = [dataset.class_name(label) for label in range(len(answer.probabilities))]
            return {
                "labels": "|".join(names[label] for label in answer.labels),
                **{f"p({name})": p for name, p in zip(names, answer.probabilities, strict=True)},
            }
        case Guess():
            return {
                "class": answer.predicted,
                "probability": answer.probability,
                "runner_up": answer.runner_up,
                "runner_up_probability": answer.runner_up_probability,
                "agreement": answer.agreement,
                "by_seed": answer.by_seed,
                "probabilities": answer.probabilities,
            }
        case _:
            assert_never(answer)


def _class_names(record: RunRecord, answer: Answer) -> dict[str, object]:
    if not record.dataset.classes or not isinstance(answer, Guess):
        return {}
    name = record.dataset.class_name
    return {"class_name": name(answer.predicted), "runner_up_name": name(answer.runner_up)}


def percent(share: float) -> str:
    """A share from 0 to 1 as a percentage."""
    return f"{100 * share:.1f}%"
