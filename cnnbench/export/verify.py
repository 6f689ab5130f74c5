"""Verification of an exported model: its outputs compared with the network's own."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cnnbench._version import __version__
from cnnbench.analysis.trained_network import Images, TrainedNetwork
from cnnbench.errors import CnnbenchError, StoreError
from cnnbench.layers.base import shape_text
from cnnbench.runs.folder import RESOLVED_FILE, disk
from cnnbench.spec.experiment import Task

TOLERANCE = 1e-4  # of the largest output
Runtime = Callable[[Images], NDArray[Any]]


class MismatchError(CnnbenchError):
    """An exported model is not the network that it was made of."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Exported:
    """A file for other programs.

    Args:
      content: of the file.
      lines: what it is, what it takes and gives, and how it was checked.
    """

    content: bytes
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class VerificationImages:
    """Images that a model is tried with.

    Args:
      images: (n, h, w, c), pixels from 0 to 255.
      title: what they are, as in ``test images of mnist``.
    """

    images: Images
    title: str


def provenance(network: TrainedNetwork) -> dict[str, str]:
    """What a file says of where it is from; the experiment is whole, as YAML."""
    record, resolved = network.record, network.path / RESOLVED_FILE
    with disk(resolved, "read"):
        experiment = resolved.read_text("utf-8", "replace")
    return {
        "cnnbench": __version__,
        "run_id": record.run_id,
        "seed": str(network.seed),
        "dataset": record.dataset.name,
        "spec_digest": record.spec_digest,
        "pixel_scale": f"{network.experiment.dataset.pixel_scale:g}",
        "experiment": experiment,
    }


def description(
    network: TrainedNetwork, probe: VerificationImages, batch: str, checked: str
) -> tuple[str, ...]:
    """What goes in, what comes out, and what the check found."""
    images, results = probe.images[:1], network.outputs(probe.images[:1])
    takes, gives = (", ".join([batch, *map(str, x.shape[1:])]) for x in (images, results))
    scale = f"{network.experiment.dataset.pixel_scale:g}"
    classifies = network.experiment.task is Task.CLASSIFY
    what = "logits (softmax makes probabilities)" if classifies else f"pixels divided by {scale}"
    return (
        f"takes    uint8 [{takes}], pixels from 0 to 255 (divided by {scale} inside)",
        f"gives    float32 [{gives}], {what}",
        f"checked  {checked}",
    )


def verify(
    network: TrainedNetwork, run: Runtime, probe: VerificationImages, rows: int | None = None
) -> str:
    """Runs a model with one image, then with others; says how far off it is.

    Args:
      network: what it was made of.
      run: the model.
      probe: the images.
      rows: how many at a time; all if None.

    Raises:
      StoreError: the network's own outputs are not finite.
      MismatchError: the difference is too large.
    """
    images, step = probe.images, rows or len(probe.images)
    ours = network.outputs(images)
    if not np.isfinite(ours).all():
        message = f"{network.path}, seed {network.seed}: its outputs are not finite; it diverged"
        raise StoreError(f"{message}, so export another seed.")
    parts = [images[:1], *(images[i : i + step] for i in range(1, len(images), step))]
    theirs = np.concatenate([run(part) for part in parts])
    if theirs.shape != ours.shape:
        shapes = f"{shape_text(theirs.shape)} values, not {shape_text(ours.shape)}"
        raise MismatchError(broken(network, f"gives {shapes}"))
    largest = float(np.abs(theirs.astype(np.float64) - ours).max())
    allowed = TOLERANCE * float(np.abs(ours).max())
    over = f"largest difference {largest:.1e} over {len(images)} {probe.title}"
    if not largest <= allowed:  # NaN is none that is allowed
        raise MismatchError(broken(network, f"is another: {over}, {allowed:.1e} is allowed"))
    return f"{over},\n         {allowed:.1e} allowed"


def broken(network: TrainedNetwork, what: str) -> str:
    """The message that an exported model is not the network."""
    who = f"{network.path}, seed {network.seed}"
    return f"{who}: the exported model {what}; nothing was written, please report it."
