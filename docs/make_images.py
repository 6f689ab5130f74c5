"""Draws docs/images/run.svg: what a run of the modified CNN shows, as it happens."""

import contextlib
import io
import tempfile
from pathlib import Path

from rich.console import Console

from cnnbench.cli.progress import Lines
from cnnbench.comparisons.comparison import compare
from cnnbench.report.comparison import terminal_table
from cnnbench.runner.run import Request, run_experiment

COMMAND = "cnnbench run experiments/modified.yaml --dataset mnist_5k --epochs 3"
OVERRIDES = ("dataset.name=mnist_5k", "dataset.splits=null", "dataset.offline=null")
ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    """Runs the experiment and writes the picture."""
    console = Console(record=True, width=104, file=io.StringIO(), force_terminal=True)
    spec = ROOT / "experiments" / "modified.yaml"
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
        result = run_experiment(Request(spec, (*OVERRIDES, "train.epochs=3")), Lines(console))
    console.print(terminal_table([compare([result])], wide=False))
    picture = ROOT / "docs" / "images" / "run.svg"
    picture.parent.mkdir(exist_ok=True)
    console.save_svg(str(picture), title=COMMAND)


if __name__ == "__main__":
    main()
