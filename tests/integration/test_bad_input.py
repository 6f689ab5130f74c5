"""Wrong or unusual input: paths, arguments, titles, closed streams, a full disk."""

import dataclasses
import errno
import io
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from rich.console import Console
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.cli.progress import Bars, Board
from cnnbench.cli.terminal import write_file
from cnnbench.data.catalog import describe
from cnnbench.errors import CnnbenchError, SpecError, StoreError
from cnnbench.runs.find import find_runs, find_unfinished
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import RunResult
from cnnbench.spec.loader import load_experiment
from cnnbench.training import trainer
from tests.cli.test_app import TINY
from tests.support.paths import ROOT
from tests.support.samples import make_run, save, with_record

STANDARD = ROOT / "experiments" / "standard.yaml"
NASTY = "[/red]\x1b[31m\x9b2Jx\x07 `a`|b <script>"


@pytest.fixture(autouse=True)
def _here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("TFDS_DATA_DIR", raising=False)
    (tmp_path / "tiny.yaml").write_text(TINY)


def invoke(*words: str):
    return CliRunner().invoke(app, list(words), prog_name="cnnbench", catch_exceptions=False)


# Paths


def test_extends_cannot_leave_its_folder_through_a_link(tmp_path):
    folder = tmp_path / "specs"
    (folder / "sub").mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    for place in (outside, folder / "sub"):
        (place / "parent.yaml").write_text(TINY)
    (folder / "link.yaml").symlink_to(outside / "parent.yaml")
    (folder / "away").symlink_to(outside)
    (folder / "inside.yaml").symlink_to(folder / "sub" / "parent.yaml")
    child = folder / "child.yaml"
    for value in ("link.yaml", "away/parent.yaml"):
        child.write_text(f"extends: {value}\nname: child\n")
        with pytest.raises(SpecError) as caught:
            load_experiment(child)
        assert str(caught.value) == (
            f"{child}:1:10: extends: '{value}' is outside the folder of this file"
            " (symbolic link); specify a file in the same folder or a subfolder."
        )
    for value in ("inside.yaml", "sub/parent.yaml"):
        child.write_text(f"extends: {value}\nname: child\n")
        assert load_experiment(child).experiment.name == "child"
    child.write_text("extends: sub/parent.yaml\nname: child\n")
    (tmp_path / "reached").symlink_to(folder)  # links in the path to the folder are allowed
    assert load_experiment(tmp_path / "reached" / "child.yaml").experiment.name == "child"


@pytest.mark.parametrize("value", ["'a\\nb'", '"a\\nb.yaml"', '"../a"', "/etc/passwd", '"a\\0"'])
def test_extends_of_odd_names(tmp_path, value):
    child = tmp_path / "child.yaml"
    child.write_text(f"extends: {value}\nname: child\n")
    with pytest.raises(SpecError) as caught:
        load_experiment(child)
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "name", ["../..", "a\nb", "a\0b", "x" * 300, "/", "", " ", ".", "\x1b[31m"]
)
def test_runs_of_odd_names(tmp_path, monkeypatch, name):
    here = tmp_path / "a" / "b"  # no runs of other tests above it
    here.mkdir(parents=True)
    monkeypatch.chdir(here)
    save(make_run(), here / "results")
    for find in (
        lambda: find_runs([name], Path("results")),
        lambda: find_unfinished(name, Path("results")),
    ):
        with pytest.raises(CnnbenchError) as caught:
            find()
        assert len(str(caught.value).splitlines()) == 1


def test_a_run_id_in_a_file_is_not_followed(tmp_path):
    run = with_record(make_run(), run_id="../../../outside", name="../..")
    path = tmp_path / "results" / "standard" / "20251123T063012Z-a1b2"
    save(make_run(), tmp_path / "results")
    from cnnbench.runs.codec import encode_record

    (path / "run.json").write_bytes(encode_record(run.record))
    before = sorted(tmp_path.rglob("*"))
    for command in (["list"], ["compare"], ["compare", "--format", "md"], ["check"]):
        invoke(*command)
    assert invoke("report", "-o", "results/page.html").exit_code == 0
    assert sorted(tmp_path.rglob("*")) == sorted([*before, tmp_path / "results" / "page.html"])


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["run", "tiny.yaml", "--dry-run", f"title={'x' * 300}"], 0),
        (["show", "x" * 300], 2),
        (["run", "--resume", "x" * 300], 1),
        (["run", "tiny.yaml", "--data-dir", "x" * 300], 2),
        (["run", "tiny.yaml", "--dry-run", "--seeds", "0"], 2),
        (["list", "--results-dir", "x" * 300], 1),
        (["compare", "x" * 300], 1),
        (["check", "x" * 300], 1),
        (["inspect", "x" * 300], 1),
    ],
)
def test_names_too_long_for_a_file(words, code):
    done = invoke(*words)
    assert done.exit_code == code, done.output
    assert len(done.stderr.splitlines()) == (code != 0)


# Arguments


@pytest.mark.parametrize("seeds", ["0", "-1", "[0, 1]", "three", "", "1;2"])
def test_errors_on_seeds_name_the_option(seeds):
    done = invoke("run", "tiny.yaml", "--dry-run", f"--seeds={seeds}")
    assert (done.exit_code, done.stderr) == (
        2,
        f"--seeds: {seeds!r} is neither a positive integer nor a list of seeds; write, for"
        " example, 6 or 0,1,2.\n",
    )


@pytest.mark.parametrize(
    ("seeds", "shown"), [("2", "seeds 0 and 1"), ("7,", "seed 7"), ("4, 0", "seeds 4 and 0")]
)
def test_seeds_on_a_command_line(seeds, shown):
    assert invoke("run", "tiny.yaml", "--dry-run", "--seeds", seeds).stdout.endswith(
        f"on mnist_5k, {shown}\n"
    )


# Terminal control codes


def odd(run: RunResult) -> RunResult:
    """A run with an edited title, since specs only allow one line."""
    return with_record(run, title=NASTY, name="odd")


def test_control_codes_in_titles_and_paths_never_reach_the_terminal(tmp_path):
    results = tmp_path / "res\x1b[31mults"
    save(odd(make_run(seeds=(0, 1))), results)
    save(make_run("other", "Other", seeds=(0, 1), run_id="20251124T063012Z-a1b2"), results)
    for words in (
        ["list"],
        ["compare"],
        ["compare", "--format", "md"],
        ["compare", "nothing\x1b[31m"],
        ["check"],
        ["report", "-o", "a\x1b[31m.html"],
        ["plot", "-o", "a\x1b[31m.svg"],
        ["inspect", "odd"],
    ):
        done = invoke(*words, "--results-dir", str(results))
        assert not {"\x1b", "\x9b", "\x07"} & set(done.output), words
    for words in (["show", "a\x1b[31m.yaml"], ["show", "tiny.yaml", "a\x1b[31m=1"]):
        done = invoke(*words)
        assert done.exit_code == 2
        assert "\\x1b[31m" in done.stderr
        assert "\x1b" not in done.stderr


def test_markup_in_a_title_is_printed_literally():
    loaded = load_experiment(STANDARD, ["title='[/red] [bold]x'"])
    out = io.StringIO()
    screen = Console(file=out, force_terminal=True, width=100, color_system=None)
    bars = Bars(Board(screen), several=True)
    bars.loaded(loaded)
    bars.started(dataclasses.replace(make_run().record, title="[/red] [bold]x"), 10)
    bars.board.progress.refresh()
    bars.close()
    assert "[/red] [bold]x: compiling" in out.getvalue()


def test_markdown_in_a_title_is_escaped(tmp_path):
    save(odd(make_run()), tmp_path / "results")
    text = invoke("compare", "--format", "md").stdout
    first = text.splitlines()[2]
    assert first.startswith("| \\[/red] \\[31m 2Jx \\`a\\`\\|b \\<script> |")


# Closed streams, and a deleted folder


def shell(command: str, **options):
    done = subprocess.run(
        ["bash", "-c", command],
        check=False,
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(ROOT), "PY": sys.executable},
        **options,
    )
    return done.returncode, done.stdout, done.stderr


@pytest.mark.slow
def test_a_deleted_working_directory(tmp_path):
    here = f"mkdir gone; cd gone; rmdir ../gone; export PYTHONPATH={ROOT}; $PY -m cnnbench"
    said = "the working directory was deleted; change to another one\n"
    assert shell(f"{here} new standard idea.yaml") == (1, "", said)
    words = f"{tmp_path}/tiny.yaml --results-dir {tmp_path}/results --epochs 1 --quiet --json"
    code, out, err = shell(f"{here} run {words}")
    assert (code, '"accuracy"' in out, err) == (0, True, "")


def test_a_closed_pipe_ends_a_command_quietly(tmp_path):
    for number in range(40):
        save(make_run(run_id=f"20251123T0630{number:02}Z-a1b2"), tmp_path / "results")
    command = (
        "$PY -m cnnbench list | true; echo ${PIPESTATUS[0]}; $PY -m cnnbench show tiny.yaml | true"
    )
    command += "; echo ${PIPESTATUS[0]}; $PY -m cnnbench compare --format json | head -c 1"
    assert shell(command) == (0, "1\n1\n{", "")


def test_a_run_continues_after_its_progress_pipe_is_closed(tmp_path):
    command = "$PY -m cnnbench run tiny.yaml --epochs 3 2>&1 >out | head -1; echo ${PIPESTATUS[0]}"
    shown = shell(command)[1].splitlines()
    (run,) = (tmp_path / "results" / "tiny").iterdir()
    assert (shown[-1], (tmp_path / "out").read_text()) == ("1", "")
    record = read_run(run).record
    assert (record.status, record.error) == ("interrupted", None)
    done = invoke("run", "--resume", "tiny", "--quiet")
    assert (done.exit_code, read_run(run).record.status) == (0, "finished")


def test_closed_standard_streams_are_tolerated(tmp_path):
    save(make_run(), tmp_path / "results")
    assert shell("$PY -m cnnbench list >&-") == (0, "", "")
    code, out, err = shell("$PY -m cnnbench list 2>&- <&-")
    assert (code, "standard" in out, err) == (0, True, "")
    assert shell("$PY -m cnnbench show nothing.yaml 2>&-") == (2, "", "")
    script = "from cnnbench.cli.terminal import open_streams; open_streams()"
    script += "; print(open('x', 'w').fileno() > 2)"
    assert shell(f'$PY -c "{script}" 2>&-') == (0, "True\n", "")


# Errors before training


def test_a_missing_dataset_is_reported_before_any_run_trains(tmp_path):
    missing = TINY.replace("name: tiny", "name: missing").replace("name: mnist_5k", "name: kmnist")
    (tmp_path / "missing.yaml").write_text(missing)
    data = tmp_path / "data"
    data.mkdir()
    (data / "train-images-idx3-ubyte.gz").write_bytes(b"no images")
    words = ["--data-dir", str(data), "--quiet", "train.epochs=1"]
    done = invoke("run", "tiny.yaml", "missing.yaml", *words)
    assert done.exit_code == 1
    assert done.stderr.startswith(f"{data}/train-images-idx3-ubyte.gz: not a valid IDX file")
    assert not (tmp_path / "results").exists()


@pytest.mark.parametrize(
    "error",
    [MemoryError(), jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 7")],
)
def test_out_of_memory_is_one_line(monkeypatch, tmp_path, error):
    def fail(_):
        raise error

    monkeypatch.setattr(trainer, "known_choice", fail)
    done = invoke("run", "tiny.yaml", "--quiet")
    assert (done.exit_code, done.stderr) == (
        1,
        "out of memory with batch size 100: conv1 (104 parameters, 24x24x4 per image), pool1 (0"
        " parameters, 6x6x4 per image), drop1 (0 parameters, 6x6x4 per image);"
        " write train.batch_size=50 or less.\n",
    )
    (run,) = (tmp_path / "results" / "tiny").iterdir()
    assert '"status": "failed"' in (run / "run.json").read_text()


LITTLE_ROOM = """
import resource
from pathlib import Path

import jax

from cnnbench.system import devices
from cnnbench.cli.app import main

devices.free_bytes = lambda: None  # unknown before compilation
jax.devices()
used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + (2 << 30), used + (2 << 30)))
main()
"""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="the memory used is unknown")
@pytest.mark.slow
def test_real_memory_exhaustion_is_one_line(tmp_path):
    """Outputs of 24x24x256 values need 9 GiB, and 2 are available."""
    words = ["run", str(STANDARD), "model.conv1.filters=256", "train.batch_size=4000"]
    words += ["--dataset", "mnist_5k", "--engine", "plain", "--quiet"]
    command = [sys.executable, "-c", LITTLE_ROOM, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (
        1,
        "out of memory with batch size 4,000: conv1 (6,656 parameters, 24x24x256 per image), pool1"
        " (0 parameters, 12x12x256 per image), conv2 (204,832 parameters, 8x8x32 per image);"
        " write train.batch_size=2000 or less.\n",
    )
    (run,) = (tmp_path / "results" / "standard").iterdir()
    assert '"status": "failed"' in (run / "run.json").read_text()


NO_ROOM = """
import resource

from cnnbench.cli.app import main

_, most = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (12_288, most))
try:
    main()
finally:  # coverage writes files too
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
"""


def test_a_checkpoint_too_large_for_the_disk_is_one_line(tmp_path):
    (tmp_path / "tiny.yaml").write_text(
        "name: tiny\ntask: classify\n"
        "dataset: {name: mnist_5k, train_examples: 60, splits: {validation: 20, test: 20}}\n"
        "model: {layers: {one: {op: dense, units: 16}, two: {op: dense, units: 10}}}\n"
    )
    words = ["run", "tiny.yaml", "--epochs", "1", "--quiet", "--engine", "plain"]
    command = [sys.executable, "-c", NO_ROOM, *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (run,) = (tmp_path / "results" / "tiny").iterdir()
    where = Path("results", "tiny", run.name, "checkpoints", "seed-0", "epoch-1.safetensors")
    *cache, line = done.stderr.splitlines()
    assert all("programs: cannot be written (File too large)" in text for text in cache)
    assert (done.returncode, line) == (
        1,
        f"{where}: cannot write: file too large; choose another folder with --results-dir.",
    )
    assert '"status": "failed"' in (run / "run.json").read_text()


def test_out_of_memory_outside_training_is_one_line(monkeypatch):
    def fail(*_args, **_options):
        raise MemoryError

    monkeypatch.setattr("cnnbench.runs.find.list_runs", fail)
    done = invoke("list")
    assert (done.exit_code, done.stderr) == (
        1,
        "out of memory; close other programs, or use smaller batches\n",
    )


def test_no_temporary_folder_is_left_behind(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    assert describe("cmaterdb", tmp_path / "data").shape == (32, 32, 3)
    assert list((tmp_path / "tmp").iterdir()) == []


def test_output_files_are_written_atomically(tmp_path, monkeypatch):
    file, link = tmp_path / "report.html", tmp_path / "link.html"
    file.write_bytes(b"old")
    link.symlink_to(file)
    write_file("--output", link, b"new")
    assert (file.read_bytes(), link.is_symlink()) == (b"new", True)

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", full)
        with pytest.raises(StoreError, match="cannot be written: no space left on device"):
            write_file("--output", file, b"newer")
    assert not list(tmp_path.glob(".*partial"))
    assert file.read_bytes() == b"new"
    write_file("--output", Path(os.devnull), b"gone")
    assert Path(os.devnull).is_char_device()
