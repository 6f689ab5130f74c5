"""The script of a SLURM job array: valid, and with the options of the user."""

import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.errors import UsageError
from cnnbench.runner.batches.slurm import make_array, parse_slurm, split_options, submit

WORDS = ["cnnbench", "run", "my idea.yaml", "--seeds", "4"]


def test_the_script_is_valid_and_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    array = make_array(WORDS, ["a"], 4, "--time=2:00:00 -p gpu", Path("results"))
    subprocess.run(["bash", "-n"], input=array.script, text=True, check=True)
    lines = array.script.splitlines()
    assert "#SBATCH --array=1-4" in lines
    assert "#SBATCH --time=2:00:00" in lines
    assert "#SBATCH -p gpu" in lines
    assert "-m cnnbench run 'my idea.yaml' --seeds 4 --shard" in array.script


# A stand-in that runs the tasks one after another, as `sbatch` would start them.
SBATCH = """\
#!/bin/bash
for task in 1 2; do
    SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$task bash "$2" >>"$CALLS.out" 2>&1
done
echo 7
"""


WARN = "kill -USR1 $PPID; trap 'exit 143' TERM; sleep 9 & wait"
SAVE = "mkdir -p results/a/1/checkpoints/seed-0; sleep 0.1; cd results/a/1/checkpoints/seed-0"
SAVE += "; echo >epoch-1.safetensors"


@pytest.mark.parametrize(
    ("python", "scontrol", "requeued", "said"),
    [
        (":", "", False, ""),
        (f"{SAVE}; {WARN}", "", True, "The time limit is near."),
        (WARN, "", False, "Not requeued: no checkpoint was written; submit with a longer --time."),
        (f"{SAVE}; {WARN}", "exit 1", True, "Not requeued: see above; submit the command again"),
        ("kill -USR1 $PPID; sleep 0.1; exit 2", "", False, "The time limit is near."),
    ],
)
def test_tasks_run_their_shards_and_are_requeued(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    python: str,
    scontrol: str,
    requeued: bool,
    said: str,
) -> None:
    """With stand-ins for sbatch, scontrol and Python: a task that is warned requeues itself."""
    calls = tmp_path / "calls"
    for name, text in {
        "sbatch": SBATCH,
        "scontrol": f'#!/bin/bash\necho "$@" >>"$CALLS"\n{scontrol}\n',
        "python": f'#!/bin/bash\necho "$@" >>"$CALLS"\n{python}\n',
    }.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CALLS", str(calls))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("sys.executable", str(tmp_path / "python"))
    array = make_array(["cnnbench", "run", "a.yaml"], ["a"], 2, "", Path("results"))
    assert submit(array) == "7"
    trained = [f"-m cnnbench run a.yaml --shard {task}/2 --needed" for task in (1, 2)]
    again = [f"requeue 7_{task}" for task in (1, 2)]
    both = [line for pair in zip(trained, again, strict=True) for line in pair]
    assert calls.read_text().splitlines() == (both if requeued else trained)
    assert said in (tmp_path / "calls.out").read_text()
    assert not list((tmp_path / "results" / ".slurm").glob(".started-*"))


@pytest.mark.parametrize(
    ("options", "seconds"),
    [("", 120), ("--time=1", 15), ("-t 2:00", 30), ("--time 1-0", 120), ("--mem=4G", 120)],
)
def test_short_limits_leave_time_to_train(options: str, seconds: int) -> None:
    array = make_array(WORDS, ["a"], 4, options, Path("results"))
    assert f"#SBATCH --signal=B:USR1@{seconds}" in array.script.splitlines()


def test_without_slurm_there_is_a_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array = make_array(WORDS, ["a"], 4, "", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UsageError) as found:
        submit(array)
    assert str(found.value) == (
        "--on slurm: 'sbatch' is not on PATH, so this is not a login node of SLURM; print the"
        " script with --dry-run, or use --on local."
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gpu", "--sbatch: 'gpu' is not an option of sbatch; write, for example, '--time"),
        ("--array=3", "--sbatch: --array is set by cnnbench; set the number of tasks with --on"),
        ("--signal USR2", "--sbatch: --signal is set by cnnbench; remove it."),
    ],
)
def test_invalid_options_of_sbatch(text: str, message: str) -> None:
    with pytest.raises(UsageError) as found:
        split_options(text)
    assert str(found.value).startswith(message)


def test_invalid_number_of_tasks() -> None:
    with pytest.raises(UsageError) as found:
        parse_slurm("slurm:0")
    assert str(found.value) == (
        "--on: 'slurm:0' is not slurm or slurm:N with a positive N; write slurm for one array task"
        " per seed."
    )


def test_options_that_need_all_seeds_are_refused() -> None:
    words = ["run", "standard", "--on", "slurm", "--until-decided"]
    found = CliRunner().invoke(app, words)
    assert (found.exit_code, found.stderr.splitlines()[-1]) == (
        2,
        "--on slurm: cannot be combined with --until-decided: a look needs all seeds; remove one"
        " of them.",
    )
