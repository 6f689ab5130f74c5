"""``cnnbench export``: writes a trained network for other runtimes, or a table of all runs."""

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import numpy as np
import typer

from cnnbench.cli.commands.list import Per, PerOption, export_runs
from cnnbench.cli.completion import complete_runs
from cnnbench.cli.options import DataDir, ResultsDir, Seed
from cnnbench.cli.terminal import computing, tell, warn, write_file
from cnnbench.errors import DataError, UsageError, quoted
from cnnbench.runs.find import find_run

if TYPE_CHECKING:
    from cnnbench.analysis.trained_network import TrainedNetwork
    from cnnbench.export.verify import VerificationImages

PROBED = 100  # images that verify an exported model


class ExportKind(StrEnum):
    """Formats of exported networks."""

    STABLEHLO = "stablehlo"
    ONNX = "onnx"
    SAFETENSORS = "safetensors"


def export_model(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN|FILE",
            help="Run whose network is exported, as in other commands; or a .csv, .parquet or"
            " .json file for a table of all runs.",
            show_default=False,
            autocompletion=complete_runs,
        ),
    ],
    to: Annotated[
        ExportKind | None,
        typer.Option(help="Format: StableHLO (JAX), ONNX, or weights only.", show_default=False),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="File to write; default: NAME-seed-N.FORMAT.", metavar="FILE"
        ),
    ] = None,
    seed: Seed = None,
    per: PerOption = Per.RUN,
    data_dir: DataDir = None,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Export a trained network, verified in its target runtime; or a table of all runs."""
    if to is None:
        export_table(run, per, results_dir)
        return
    if per is Per.SEED:
        raise UsageError("--per: is for tables of runs; leave it out with --to.")
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
            warn([f"the network was trained in {trained_in}; the ONNX model computes in float32"])
            precision = ["train.precision=float32"]
            (network,) = load_seeds(path, network.seed, data_dir=data_dir, overrides=precision)
        done = export_network(network, to.value, probe)
        file = output or Path(f"{network.record.name}-seed-{network.seed}.{to}")
        write_file("--output", file, done.content)
        for line in done.lines:
            tell(line, err=False)


def export_table(file: str, per: Per, results_dir: Path) -> None:
    """Writes a table of all runs.

    Raises:
      UsageError: the file has another extension, so a network was probably meant.
    """
    if Path(file).suffix not in {".csv", ".parquet", ".json"}:
        raise UsageError(
            f"export: missing option '--to' for the network of {quoted(file)}; add --to stablehlo,"
            " onnx or safetensors, or name a .csv, .parquet or .json file for a table of all runs."
        )
    export_runs(Path(file), per, results_dir)


def _probe(network: "TrainedNetwork", data_dir: Path | None) -> "VerificationImages":
    """Returns the first test images of the run, or random ones if these are not available."""
    from cnnbench.export.verify import VerificationImages

    name = network.record.dataset.name
    try:
        test = network.dataset(data_dir, tell).test
    except DataError as error:
        warn([f"{error}; verifying with random images"])
        shape = (PROBED, *network.image_shape)
        images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
        return VerificationImages(images, "random images")
    return VerificationImages(test.images[:PROBED], f"test images of {name}")
