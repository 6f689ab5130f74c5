"""Command lines that cover every command and option: run by `make base` in a plain install.

    python tests/integration/command_lines.py FOLDER

trains tiny networks in an empty folder and runs `LINES` there, all in one process, with standard
streams in ASCII. It needs only the package and the standard library. `test_command_lines` fails if
a command, an option or one of its choices has no line.
"""

import io
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

EXPORT = "--to onnx: the package 'onnx' is not installed; run pip install 'cnnbench[export]'."
TENSORBOARD = (
    "--tensorboard: the package 'tensorboard' is not installed; run pip install"
    " 'cnnbench[tensorboard]'."
)
MLFLOW = (
    "--track mlflow: the package 'mlflow' is not installed; run pip install 'cnnbench[mlflow]'."
)
WANDB = "--track wandb: the package 'wandb' is not installed; run pip install 'cnnbench[wandb]'."
OPTUNA = (
    "--sampler optuna: Optuna is not installed; run pip install 'cnnbench[optuna]', or remove"
    " --sampler."
)
MISSING = "is not installed; run pip install 'cnnbench[peers]'."


@dataclass(frozen=True)
class Line:
    """A command line.

    Args:
      text: arguments of `cnnbench`.
      code: expected exit code.
      says: expected part of the output, on either stream.
    """

    text: str
    code: int = 0
    says: str = ""

    @property
    def words(self) -> list[str]:
        return shlex.split(self.text)


LINES = (
    Line("--version", says="cnnbench "),
    Line("data list", says="mnist_5k"),
    Line("data path --data-dir data", says="cache "),
    Line("data prepare mnist_5k --data-dir data", says="mnist_5k: 4,000 training"),
    Line("data prepare mnist_5k --resize 20 --data-dir data", says="mnist_5k: 4,000 training"),
    Line("data prepare imagenette", 2, "imagenette: has images of various sizes"),
    Line("data prepare cmaterdb", 1, "cmaterdb"),
    Line("data inspect pics --output pics.png --data-dir data", says="Exact duplicates: 11."),
    *(
        Line(f"data inspect mnist_5k --task {task}", 2, "--task: is for array files")
        for task in ("multilabel", "regress")
    ),
    *(
        Line(f"data inspect mnist_5k --task {task}", says="Exact duplicates: ")
        for task in ("classify", "reconstruct")
    ),
    Line("data export mnist_5k digits --data-dir data", says="digits"),
    Line("schema", says='"$schema"'),
    Line("schema --output schema.json"),
    Line("schema standard", says='"$schema"'),
    Line("show tiny.yaml wide.yaml --data-dir data", says="conv1"),
    Line("show python.yaml --run", says="7,850"),
    Line("show python.yaml --allow-python", says="7,850"),
    Line("show tiny.yaml --diagram tiny.svg --expand"),
    Line("show tiny.yaml --diagram tiny.png"),
    Line("show tiny.yaml --diagram tiny.md"),
    Line("new tiny.yaml idea.yaml --name idea --results-dir results", says="cnnbench run"),
    Line("new modified idea.yaml --force", says="cnnbench watch"),
    Line("new fits.yaml --data pics --data-dir data", says="wrote fits.yaml"),
    Line(
        "watch wide.yaml --once --seeds 2 --epochs 1 --dataset mnist_5k --device cpu --engine fast"
        " --test unpaired"
        " --results-dir watched --data-dir data",
        says="conv1",
    ),
    Line("run tiny.yaml --seeds 2 --epochs 2 --dataset mnist_5k --device cpu", says="+/-"),
    Line("run tiny.yaml --seeds 2 --tag long --verbose", says="seed 1, epoch 1/1"),
    Line(
        "run tiny.yaml 'train.optimizer.learning_rate=log(0.001..0.1)' --trials 2 --sweep-seed 1"
        " --sampler quasi-random --seeds 1 --results-dir swept",
        says="Best of 2: ",
    ),
    Line("run tiny.yaml train.epochs=1,2 --trials 2 --sampler optuna", 2, OPTUNA),
    Line(
        "run tiny.yaml 'train.optimizer.learning_rate=0.01,0.1' --race",
        2,
        "--race: of 2 trials, one can be dropped after 5 seeds at the earliest",
    ),
    *(
        Line(f"sweep show tiny --metric loss --sort-by trial --format {form} --results-dir swept")
        for form in ("table", "md", "csv", "json", "html", "latex")
    ),
    Line("sweep show --output sweep.svg --results-dir swept", says="wrote sweep.svg"),
    Line("sweep show --output sweep.png --results-dir swept", says="wrote sweep.png"),
    Line("sweep show --output sweep.html --results-dir swept", says="wrote sweep.html"),
    Line("sweep list --results-dir swept", says="2 of 2"),
    Line(
        "confirm tiny --against written --seeds 2 --metric accuracy --alpha 0.1 --min-effect 1pp"
        " --device cpu --engine plain --data-dir data --allow-python --quiet --results-dir swept",
        says="as the best of 2",
    ),
    Line(
        "run tiny.yaml 'train.optimizer.learning_rate=0.01,0.1' --dry-run",
        says="2 runs x 2 seeds",
    ),
    Line(
        "run tiny.yaml wide.yaml --until-decided --looks 3,4 --max-seeds 4 --alpha 0.4"
        " --metric loss --min-effect 2% --results-dir looks --quiet",
        says="Verdict (planned looks at 3, 4; alpha 0.4)",
    ),
    Line(
        "run tiny.yaml wide.yaml --anytime --test paired --max-seeds 2 --results-dir ever",
        says="Verdict (",
    ),
    Line(
        "compare tiny wide --anytime --test paired --results-dir ever",
        says="valid after any number of seeds",
    ),
    Line(
        "run tiny.yaml --seeds 2 --epochs 2 --dataset mnist_5k --needed --results-dir results"
        " --data-dir data",
        says="is already finished; nothing to train",
    ),
    Line(
        "run tiny.yaml --seeds 3 --epochs 2 --dataset mnist_5k --needed",
        says="2 of the 3 seeds are in",
    ),
    Line("run tiny.yaml --seeds 4 --shard 1/2 --results-dir shard1 --quiet", says="Files: shard1"),
    Line("run tiny.yaml --seeds 4 --shard 2/2 --results-dir shard2 --quiet", says="Files: shard2"),
    Line("merge shard1 shard2 --output united --results-dir results", says="4 seeds of 2 runs"),
    Line("compare tiny --results-dir united", says="over 4 seeds"),
    Line(
        "run tiny.yaml --seeds 4 --on slurm:2 --sbatch --time=1:00:00 --dry-run",
        says='--shard "$SLURM_ARRAY_TASK_ID/2" --needed',
    ),
    Line("run wide.yaml tiny.yaml --match params --engine direct --quiet", says="Accuracy"),
    Line("run wide.yaml tiny.yaml --match flops --dry-run", says="would train"),
    Line(
        "run tiny.yaml wide.yaml --tune learning_rate=x1:x3 --trials 2 --tune-seeds 1"
        " --results-dir tuned",
        says="Budget of each: 2 trials x 1 seed",
    ),
    Line("run tiny.yaml --tune learning_rate --dry-run", says="would try"),
    Line("run tiny.yaml --seeds 1 --engine plain --workers 1 --json", says='"comparisons"'),
    Line("run tiny.yaml --seeds 1 --engine fast --profile trace --tag traced", says="Files: "),
    Line(
        "run tiny.yaml wide.yaml --seeds 2 --on local:1 --tag workers --results-dir on",
        says="Files: ",
    ),
    Line("run tiny.yaml --on cloud", 2, "--on: 'cloud' is not local, local:N, ray"),
    Line("run tiny.yaml --cpus 2", 2, "--cpus: applies only to workers on Ray"),
    Line("run tiny.yaml --gpus 1 --on local", 2, "--gpus: applies only to workers on Ray"),
    Line("run code.yaml --engine direct", says="Loss"),
    Line("run wide.yaml --seeds 1 --epochs 1 --engine whole --results-dir shares", says="Accuracy"),
    Line("run python.yaml --allow-python --engine auto --device auto", says="Accuracy"),
    Line("run --resume stopped", says="Files: "),
    Line("run tiny.yaml --seeds 1 --retune --engine auto", says="Files: "),
    Line("run tiny.yaml --retune --engine winograd", 2, "--retune: has no effect with --engine"),
    Line("run tiny.yaml --retune --engine onednn", 2, "--retune: has no effect with --engine"),
    Line("run tiny.yaml --device gpu", 2, "--device gpu"),
    Line("run tiny.yaml --device tpu", 2, "--device tpu"),
    Line("bench tiny.yaml --cores 9999", 2, "--cores: 9999 cores, but only "),
    Line("run tiny.yaml --cores 9999", 2, "--cores: 9999 cores, but only "),
    Line("run tiny.yaml --cores 1 --on ray", 2, "give each worker some with --cpus"),
    Line("run tiny.yaml --seeds 1 --processes 2 --engine direct --results-dir several"),
    Line("run tiny.yaml --tensorboard", 2, TENSORBOARD),
    Line("run tiny.yaml --track tensorboard", 2, TENSORBOARD),
    Line("run tiny.yaml --track mlflow", 2, MLFLOW),
    Line("run tiny.yaml --track wandb", 2, WANDB),
    Line("list --results-dir results", says="tiny"),
    Line(
        "list --where epochs>=1 --sort-by test_accuracy --reverse --limit 1", says="test_accuracy"
    ),
    Line("list --where epoch>1", 2, "did you mean 'epochs'?"),
    *(Line(f"list --format {form}", says="test_accuracy") for form in ("csv", "json")),
    Line("list --format table", says="tiny"),
    Line("list --output runs.csv --per seed", says="wrote runs.csv"),
    Line("export runs.csv --per run", says="wrote runs.csv"),
    Line("export runs.csv --per seed", says="wrote runs.csv"),
    Line("export tiny", 2, "missing option '--to'"),
    Line("check --results-dir results", says="ok"),
    Line("check tiny", says="ok"),
    Line(
        "compare tiny wide --baseline tiny --metric loss --alpha 0.1 --min-effect 0.01 --target 9"
        " --test unpaired"
        " --sort-by time --only-changed --precision 3 --results-dir results",
        says="Verdict",
    ),
    Line("compare tiny wide --fail-if loss:+0.1%", 4, "inconclusive"),
    Line("run tiny.yaml wide.yaml --over epochs=1,2 --seeds 2 --quiet", says="Verdict"),
    Line("compare tiny wide --over epochs=1,2", says="Verdict"),
    Line("compare tiny wide --predictions --data-dir data", says="Verdict"),
    Line("compare --all --verbose", says="Accuracy"),
    *(Line(f"compare --format {form}") for form in ("table", "md", "csv", "json", "html")),
    Line("compare --format latex", says="toprule"),
    Line(
        "plot tiny wide --output curves.png --baseline tiny --metric loss --alpha 0.1 --test paired"
        " --min-effect 0.01 --results-dir results"
    ),
    Line("plot tiny wide -o curves.svg --verbose"),
    Line("plot tiny wide -o over.png --over epochs=1,2", says="wrote over.png"),
    Line(
        "report tiny wide --output report.html --baseline tiny --metric loss --alpha 0.1"
        " --test paired --min-effect 0.01 --results-dir results --data-dir data"
    ),
    Line("report --all --title Nets --notes notes.md", says="wrote report.html"),
    Line("report tiny wide -o over.html --over epochs=1,2", says="wrote over.html"),
    Line(
        "inspect tiny --layer conv1 --image 0 --image 1 --units 2 --seed 0 --output units.png"
        " --npz values.npz --data-dir data --results-dir results",
        says="conv1",
    ),
    Line("inspect code -o layers.svg", says="code"),
    Line("latent code --seed 0 --walk 0 1 --output code.png --results-dir results --data-dir data"),
    Line(
        "predict tiny digit.png --seed 0 --invert yes --trim --output seen.png --data-dir data"
        " --results-dir results",
        says="digit.png",
    ),
    *(Line(f"predict tiny digit.png --format {form}") for form in ("table", "md", "csv", "json")),
    Line("predict tiny --worst 3 --data-dir data", says="the 3 of"),
    *(Line(f"predict code digit.png --invert {swap}") for swap in ("auto", "no")),
    Line("gradcheck tiny.yaml --layer conv1 --float64 --data-dir data", says="conv1"),
    *(Line(f"gradcheck tiny.yaml --format {form}", says="conv1") for form in ("table", "json")),
    Line("gradcheck --show", says="convolution"),
    Line(
        "export tiny --to stablehlo --output tiny.stablehlo --seed 0 --results-dir results"
        " --data-dir data",
        says="wrote tiny.stablehlo",
    ),
    Line("export tiny --to safetensors"),
    Line("export tiny --to onnx", 2, EXPORT),
    Line(
        "bench tiny.yaml --by-layer --engine direct --dataset mnist_5k --data-dir data",
        says="Bound by",
    ),
    Line(
        "bench tiny.yaml --against flax --rounds 3 --budget 1 --format table --dataset mnist_5k"
        " --data-dir data --output benched",
        says="cnnbench is faster",
    ),
    Line("bench tiny.yaml --against torch --format md", 2, f"PyTorch {MISSING}"),
    Line("bench tiny.yaml --against keras --format json", 2, f"Keras {MISSING}"),
)

TINY = """\
name: tiny
title: "Tiny \\u00d7 \\u4e2d\\u6587"
task: classify
dataset: {name: mnist_5k, train_examples: 200}
model:
  layers:
    conv1: {op: conv, filters: 2, kernel: 5, activation: relu}
    pool1: {op: max_pool, size: 4}
    dense1: {op: dense, units: 10}
train: {epochs: 1, batch_size: 100}
seeds: [0, 1]
"""
WIDE = "extends: tiny.yaml\nname: wide\ntitle: Wide\nmodel: {layers: {conv1: {filters: 4}}}\n"
CODE = """\
name: code
task: reconstruct
dataset: {name: mnist_5k, train_examples: 200}
model:
  code_layer: code
  layers:
    flat: {op: flatten}
    code: {op: dense, units: 2}
    wide: {op: dense, units: 784}
    image: {op: reshape, shape: [28, 28, 1]}
train: {epochs: 1, batch_size: 100}
"""
PYTHON = """\
name: python
task: classify
dataset: {name: mnist_5k, train_examples: 200}
model: {python: "net:Net"}
train: {epochs: 1, batch_size: 100}
"""
NET = """\
from flax import nnx


class Net(nnx.Module):
    def __init__(self, rngs: nnx.Rngs) -> None:
        self.out = nnx.Linear(784, 10, rngs=rngs)

    def __call__(self, x):
        return self.out(x.reshape(x.shape[0], -1))
"""


def prepare() -> None:
    """Write the input files of the lines to the working directory."""
    from PIL import Image

    files = {"tiny.yaml": TINY, "wide.yaml": WIDE, "code.yaml": CODE, "python.yaml": PYTHON}
    for name, text in (files | {"net.py": NET, "notes.md": "A *wider* kernel.\n"}).items():
        Path(name).write_text(text, "utf-8")
    Path("data").mkdir()
    digit = Image.new("L", (28, 28), 255)
    digit.paste(0, (12, 4, 16, 24))
    digit.save("digit.png")
    for folder in ("train/one", "train/seven", "test/one"):
        Path("pics", folder).mkdir(parents=True)
        for number in range(4):
            digit.save(Path("pics", folder, f"{number}.png"))


def stop() -> None:
    """Turn a finished run into an interrupted one."""
    (run,) = Path("results/wide").iterdir()
    Path("stopped").mkdir()
    for file in run.rglob("*"):
        copy = Path("stopped") / file.relative_to(run)
        copy.mkdir(exist_ok=True) if file.is_dir() else copy.write_bytes(file.read_bytes())
    record = json.loads(Path("stopped/run.json").read_text("utf-8"))
    Path("stopped/run.json").write_text(json.dumps(record | {"status": "interrupted"}), "utf-8")
    Path("stopped/summary.json").unlink()


def call(words: Sequence[str]) -> tuple[int, str]:
    """Run a command with standard streams in ASCII.

    Returns:
      The exit code and the output.
    """
    from cnnbench.cli import app

    printed = io.BytesIO()
    stream = io.TextIOWrapper(printed, "ascii", "strict", write_through=True)
    before = sys.argv, sys.stdout, sys.stderr
    sys.argv, sys.stdout, sys.stderr = ["cnnbench", *words], stream, stream
    try:
        app.main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    finally:
        sys.argv, sys.stdout, sys.stderr = before
    return code, printed.getvalue().decode("ascii")


def issues(lines: Sequence[Line], run: Callable[[Sequence[str]], tuple[int, str]]) -> Iterator[str]:
    """Run the lines in order, and yield unexpected results."""
    for line in lines:
        if "stopped" in line.words:
            stop()
        start = time.perf_counter()
        code, printed = run(line.words)
        print(f"{time.perf_counter() - start:6.1f} s  cnnbench {line.text}", flush=True)  # noqa: T201
        said = re.sub(r"\s+", " ", printed)
        if code != line.code or line.says not in said or "Traceback" in said:
            yield f"cnnbench {line.text}\nexit code {code}, expected {line.code}\n{printed}"


def main(folder: Path) -> int:
    """Run all lines in a folder, and report failures."""
    from cnnbench.training import profiling

    vars(profiling)["SIZE"] = (
        128  # size of the matrix products in cost measurements, which otherwise dominate
    )
    os.environ |= {"CNNBENCH_CACHE_DIR": str(folder / "cache"), "COLUMNS": "80"}
    os.environ.pop("TFDS_DATA_DIR", None)
    os.chdir(folder)
    prepare()
    found = list(issues(LINES, call))
    print("\n".join(found) or f"{len(LINES)} command lines are as expected")  # noqa: T201
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]).resolve()))
