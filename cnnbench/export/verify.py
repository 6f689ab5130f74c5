"""Verification of exported models against the outputs of the original network."""

import json
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
from cnnbench.spec.experiment import ChannelStatistics, DatasetSpec, Task

TOLERANCE = 1e-4  # relative to the largest output
Runtime = Callable[[Images], NDArray[Any]]


class MismatchError(CnnbenchError):
    """The outputs of an exported model differ from the network's."""

    exit_code = 3


@dataclass(frozen=True, slots=True)
class Exported:
    """An exported file.

    Args:
      content: content of the file.
      lines: description of its inputs, outputs and verification.
    """

    content: bytes
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False)  # arrays have no single truth value
class VerificationImages:
    """Images to verify a model on.

    Args:
      images: (n, h, w, c), pixels from 0 to 255.
      title: description, such as ``test images of mnist``.
    """

    images: Images
    title: str


def provenance(network: TrainedNetwork) -> dict[str, str]:
    """Metadata on the origin of a file, with the full experiment as YAML."""
    record, resolved = network.record, network.path / RESOLVED_FILE
    with disk(resolved, "read"):
        experiment = resolved.read_text("utf-8", "replace")
    return {
        "cnnbench": __version__,
        "run_id": record.run_id,
        "seed": str(network.seed),
        "dataset": record.dataset.name,
        **({"classes": json.dumps(record.dataset.classes)} if record.dataset.classes else {}),
        "spec_digest": record.spec_digest,
        **_scaling_notes(network.experiment.dataset),
        "experiment": experiment,
    }


def _scaling_notes(dataset: DatasetSpec) -> dict[str, str]:
    notes = {}
    if targets := dataset.target_scaling:
        notes = {"target_mean": str(list(targets.mean)), "target_std": str(list(targets.std))}
    if not isinstance(dataset.normalize, ChannelStatistics):
        return {"pixel_scale": f"{dataset.pixel_scale:g}"} | notes
    own = dataset.normalize
    return {"mean": str(list(own.mean)), "std": str(list(own.std))} | notes


def description(
    network: TrainedNetwork, probe: VerificationImages, batch: str, checked: str
) -> tuple[str, ...]:
    """Input, output and verification of an exported model, as lines of text."""
    images, results = probe.images[:1], network.outputs(probe.images[:1])
    takes, gives = (", ".join([batch, *map(str, x.shape[1:])]) for x in (images, results))
    scaled = network.experiment.dataset.scaling.text
    what = {
        Task.CLASSIFY: "logits (apply softmax)",
        Task.MULTILABEL: "logits (apply sigmoid)",
        Task.REGRESS: "targets",
        Task.RECONSTRUCT: f"pixels {scaled}",
    }[network.experiment.task]
    return (
        f"input    uint8 [{takes}], pixels from 0 to 255 ({scaled} in the model)",
        f"output   float32 [{gives}], {what}",
        f"verified {checked}",
    )


def verify(
    network: TrainedNetwork, run: Runtime, probe: VerificationImages, rows: int | None = None
) -> str:
    """Run a model on one image, then on the others, and report the largest difference.

    Args:
      network: the original network.
      run: the exported model.
      probe: the images.
      rows: images per call; None for a single call.

    Raises:
      StoreError: the outputs of the network are not finite.
      MismatchError: the difference exceeds the tolerance.
    """
    images, step = probe.images, rows or len(probe.images)
    ours = network.outputs(images)
    if not np.isfinite(ours).all():
        message = f"{network.path}, seed {network.seed}: training diverged (non-finite outputs)"
        raise StoreError(f"{message}; export another seed.")
    parts = [images[:1], *(images[i : i + step] for i in range(1, len(images), step))]
    theirs = np.concatenate([run(part) for part in parts])
    if theirs.shape != ours.shape:
        shapes = f"{shape_text(theirs.shape)} values, not {shape_text(ours.shape)}"
        raise MismatchError(mismatch(network, f"returns {shapes}"))
    largest = float(np.abs(theirs.astype(np.float64) - ours).max())
    allowed = TOLERANCE * float(np.abs(ours).max())
    over = f"largest difference {largest:.1e} over {len(images)} {probe.title}"
    limit = f"tolerance {allowed:.1e}"
    if not largest <= allowed:  # also rejects NaN
        raise MismatchError(mismatch(network, f"differs from the network: {over}, {limit}"))
    return f"{over},\n         {limit}"


def mismatch(network: TrainedNetwork, what: str) -> str:
    """Error message for an exported model that failed verification."""
    who = f"{network.path}, seed {network.seed}"
    return f"{who}: the exported model {what}; nothing was written. Please report this bug."
