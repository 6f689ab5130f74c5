"""Test images with the largest loss, next to their predictions: as a table, CSV, JSON, picture."""

from collections.abc import Sequence
from dataclasses import dataclass

from cnnbench.analysis.predict import Guess, LabelSet, Reconstruction, Regression
from cnnbench.analysis.worst import WorstImage
from cnnbench.formatting import escape_markdown
from cnnbench.report.plots.terminal_image import ImageGroup
from cnnbench.report.predictions.files import (
    Predictions,
    cells,
    csv_of,
    fields,
    json_of,
    percent,
    table_of,
    title,
)
from cnnbench.report.table import WrappedTable, markdown_table
from cnnbench.runs.records import DatasetRecord, RunRecord

ARROW = "\N{RIGHTWARDS ARROW}"


@dataclass(frozen=True, slots=True)
class WorstPredictions:
    """The test images that a run's networks predict worst.

    Args:
      record: the run.
      seeds: the seeds whose networks were used.
      loss: name of the experiment's loss.
      images: the images, that with the largest loss first.
    """

    record: RunRecord
    seeds: tuple[int, ...]
    loss: str
    images: tuple[WorstImage, ...]

    @property
    def predictions(self) -> Predictions:
        """The predictions without images."""
        answers = [image.answer for image in self.images]
        return Predictions(self.record, self.seeds, self.loss, (), answers)

    @property
    def heading(self) -> str:
        """The run, and what is shown of it."""
        count, every = len(self.images), self.record.dataset.num_test
        shown = f"{count} of {every:,} test images with the largest {self.loss.replace('_', ' ')}"
        return f"{title(self.predictions)}: the {shown}"


def caption(dataset: DatasetRecord, image: WorstImage) -> tuple[str, ...]:
    """What an image is, and what it was predicted to be, in lines.

    Args:
      dataset: of the run.
      image: the image.
    """
    match image.answer:
        case Guess(predicted=predicted, probability=probability):
            answer = f"{ARROW} {dataset.class_name(predicted)} {percent(probability)}"
            return dataset.class_name(int(image.truth[0])), answer
        case Regression(values=values):
            names = dataset.target_names(len(values))
            triples = zip(names, image.truth, values, strict=True)
            return tuple(f"{name} {one:.4g} {ARROW} {two:.4g}" for name, one, two in triples)
        case LabelSet(labels=labels):
            chances = image.answer.probabilities
            found = ", ".join(f"{dataset.class_name(n)} {percent(chances[n])}" for n in labels)
            return label_names(dataset, image), f"{ARROW} {found or 'none'}"
        case Reconstruction():
            return (f"loss {image.loss:.4g}",)


def label_names(dataset: DatasetRecord, image: WorstImage) -> str:
    """Names of the labels of an image; `none` without any."""
    own = (label for label, present in enumerate(image.truth) if present)
    return ", ".join(map(dataset.class_name, own)) or "none"


def groups(found: WorstPredictions) -> list[ImageGroup]:
    """The images with captions, each next to the first seed's reconstruction if there is one."""
    shown = []
    for image in found.images:
        pictures = [image.pixels]
        if isinstance(image.answer, Reconstruction):
            pictures.append(image.answer.pixels)
        first, *rest = caption(found.record.dataset, image)
        shown.append(ImageGroup([f"{image.number}: {first}", *rest], pictures))
    return shown


def table(found: WorstPredictions) -> WrappedTable:
    """A row for each image."""
    return table_of(_grid(found))


def markdown(found: WorstPredictions) -> str:
    """The table in Markdown."""
    header, *rows = ([escape_markdown(cell) for cell in row] for row in _grid(found))
    return f"{escape_markdown(found.heading)}:\n\n{markdown_table(header, rows)}"


def csv_text(found: WorstPredictions) -> str:
    """CSV: a header and a row for each image, unrounded."""
    return csv_of(_entries(found))


def json_text(found: WorstPredictions) -> str:
    """JSON: everything, unrounded, with the prediction of each seed."""
    return json_of(found.predictions, _entries(found), num_test=found.record.dataset.num_test)


def _grid(found: WorstPredictions) -> list[list[str]]:
    """Cells of a table, headers first."""
    predictions = found.predictions
    rows = [
        {
            "Image": str(image.number),
            **_truth_cells(found.record.dataset, image),
            **_predicted(image, cells(predictions, image.answer)),
            "Loss": f"{image.loss:#.4g}",
        }
        for image in found.images
    ]
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def _predicted(image: WorstImage, row: dict[str, str]) -> dict[str, str]:
    """Cells of a prediction, whose targets must not be confused with the true ones."""
    if isinstance(image.answer, Regression):
        return {f"{name} predicted": text for name, text in row.items()}
    names = {"Class": "Predicted", "Labels (probability)": "Predicted (probability)"}
    return {
        names.get(name, name): text for name, text in row.items() if not name.startswith("Loss")
    }


def _truth_cells(dataset: DatasetRecord, image: WorstImage) -> dict[str, str]:
    match image.answer:
        case Guess():
            return {"True": dataset.class_name(int(image.truth[0]))}
        case Regression():
            names = dataset.target_names(len(image.truth))
            pairs = zip(names, image.truth, strict=True)
            return {f"{name} true": f"{value:.4g}" for name, value in pairs}
        case LabelSet():
            return {"True": label_names(dataset, image)}
        case Reconstruction():
            return {}


def _entries(found: WorstPredictions) -> Sequence[dict[str, object]]:
    """Fields of each image, by name."""
    predictions, dataset = found.predictions, found.record.dataset
    return [
        {
            "test_image": image.number,
            **_truth_fields(dataset, image),
            **fields(predictions, image.answer),
            "loss": image.loss,
        }
        for image in found.images
    ]


def _truth_fields(dataset: DatasetRecord, image: WorstImage) -> dict[str, object]:
    match image.answer:
        case Guess():
            label = int(image.truth[0])
            named = {"true_class_name": dataset.class_name(label)} if dataset.classes else {}
            return {"true_class": label, **named}
        case Regression():
            names = dataset.target_names(len(image.truth))
            return {f"true_{name}": value for name, value in zip(names, image.truth, strict=True)}
        case LabelSet():
            own = (n for n, present in enumerate(image.truth) if present)
            return {"true_labels": "|".join(map(dataset.class_name, own))}
        case Reconstruction():
            return {}
