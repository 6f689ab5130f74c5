"""``cnnbench export``: a trained network for other programs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from cnnbench.cli.options import DataDir, ResultsDir, Run, Seed
from cnnbench.cli.terminal import computing, tell, warn, write_file
from cnnbench.data.catalog import describe
from cnnbench.errors import DataError
from cnnbench.runs.find import find_run

if TYPE_CHECKING:
    from cnnbench.analysis.trained_network import TrainedNetwork
    from cnnbench.export.verify import VerificationImages

PROBED = 100  # images that an exported model is tried with


class ExportKind(StrEnum):
    """What other programs read."""

    STABLEHLO = "stablehlo"
    ONNX = "onnx"
    SAFETENSORS = "safetensors"


def export_model(
    run: Run,
    to: Annotated[
        ExportKind,
        typer.Option(help="StableHLO (JAX), ONNX, or the weights alone.", show_default=False),
    ],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write; default: NAME-seed-N.FORM.", metavar="FILE"
        ),
    ] = None,
    seed: Seed = None,
    data_dir: DataDir = None,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Export a trained network to StableHLO, ONNX or safetensors, verified in its own runtime."""
    path, warnings = find_run(run, results_dir)
    warn(warnings)
    with computing():
        from cnnbench.analysis.trained_network import load_seeds, load_trained
        from cnnbench.export import export_network, require

        require(to.value)
        network = load_trained(path, seed, data_dir=data_dir)
        probe = _probe(network, data_dir)
        if to is ExportKind.ONNX and network.experiment.train.precision != "float32":
            trained_in = network.experiment.train.precision
            warn([f"it was trained in {trained_in}; ONNX computes in float32"])
            precision = ["train.precision=float32"]
            (network,) = load_seeds(path, network.seed, data_dir=data_dir, overrides=precision)
        done = export_network(network, to.value, probe)
        file = output or Path(f"{network.record.name}-seed-{network.seed}.{to}")
        write_file("--output", file, done.content)
        for line in done.lines:
            tell(line, err=False)


def _probe(network: "TrainedNetwork", data_dir: Path | None) -> "VerificationImages":
    """The first test images of the run, or random ones where these are not to be had."""
    from cnnbench.export.verify import VerificationImages

    name = network.record.dataset.name
    try:
        test = network.dataset(data_dir, tell).test
    except DataError as error:
        warn([f"{error}; random images are taken"])
        shape = describe(name, data_dir).shape
        images = np.random.default_rng(0).integers(0, 256, (PROBED, *shape), np.uint8)
        return VerificationImages(images, "random images")
    return VerificationImages(test.images[:PROBED], f"test images of {name}")
