"""``cnnbench latent``: evaluates and visualizes the latent code of an autoencoder."""

from pathlib import Path
from typing import Annotated

import typer

from cnnbench.cli.options import DataDir, ResultsDir, Run, Seed
from cnnbench.cli.terminal import PICTURES, computing, file_form, stdout, tell, warn, write_file
from cnnbench.errors import UsageError
from cnnbench.runs.find import find_run


def latent(
    run: Run,
    seed: Seed = None,
    walk: Annotated[
        tuple[int, int],
        typer.Option(help="Two test images to interpolate between.", metavar="N M"),
    ] = (0, 1),
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="Draw reconstructions, denoised images, interpolations and samples to a file (.svg"
            " or .png).",
            metavar="FILE",
        ),
    ] = None,
    data_dir: DataDir = None,
    results_dir: ResultsDir = Path("results"),
) -> None:
    """Evaluate and visualize the latent code of an autoencoder."""
    if output:
        file_form("--output", output, PICTURES)

    path, warnings = find_run(run, results_dir)
    warn(warnings)
    with computing():
        from cnnbench.analysis.trained_network import load_trained
        from cnnbench.report.latent import latent_lines

        network = load_trained(path, seed, data_dir=data_dir)
        if network.record.task != "reconstruct":
            message = f"{path}: a network with task: {network.record.task} has no latent code"
            raise UsageError(f"{message}; name an autoencoder.")
        network.require_layers(None)
        test = network.dataset(data_dir, tell).test
        for number in walk:
            if not 0 <= number < len(test):
                message = f"--walk: there is no test image {number}"
                raise UsageError(f"{message}; write two numbers from 0 to {len(test) - 1}.")
        for line in latent_lines(network, test):
            stdout().print(line, highlight=False, markup=False)
        if output:
            from cnnbench.report.plots.image_grid import latent_panels, page

            panels = list(latent_panels(network, test, walk))
            title = f"{network.record.title}, seed {network.seed}"
            write_file(
                "--output", output, page(panels, title, file_form("--output", output, PICTURES))
            )
