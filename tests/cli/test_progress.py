"""What progress looks like, on a terminal and elsewhere."""

import dataclasses
import io
import re
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from cnnbench.cli.progress import (
    Bars,
    Board,
    Lines,
    Said,
    Silent,
    compiled_line,
    epoch_line,
    make_listeners,
    resumed_line,
    seed_line,
    status,
)
from cnnbench.cli.screen.tally import RunProgress, seconds_left
from cnnbench.runs.records import EpochRecord, RunResult
from cnnbench.spec.loader import load_experiment
from cnnbench.training.events import Compiled, Resumed, SeedDone, StepDone
from tests.support.paths import EXPERIMENTS
from tests.support.samples import ENGINE, make_run

STEPS = "fast 0.0625 s, direct 0.125 s, plain 0.500 s a step"
MEASURED = datetime(2026, 11, 28, 23, 59, tzinfo=UTC)
EPOCH = EpochRecord(0, 1, 0.5, 0.25, {"accuracy": 0.9}, 2.0, 0.1, 2000.0)


def console(*, terminal: bool) -> tuple[Console, io.StringIO]:
    out = io.StringIO()
    return Console(file=out, force_terminal=terminal, width=80, color_system=None), out


@pytest.mark.parametrize(
    ("terminal", "quiet", "kind"),
    [(True, False, Bars), (False, False, Lines), (True, True, Silent), (False, True, Silent)],
)
def test_listener_fits_the_console(terminal, quiet, kind):
    listeners = make_listeners(console(terminal=terminal)[0], 2, quiet=quiet)
    assert [type(listener) for listener in listeners] == [kind, kind]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({}, ""),  # of an older version
        ({"chosen": "requested", "requested": "fast", "step_s": {}}, ""),
        ({"chosen": "estimated", "step_s": {}}, " (by estimate)"),
        ({"chosen": "measured"}, f" (measured: {STEPS})"),
        ({"chosen": "measured", "load": 0.6}, f" (measured on a busy machine: {STEPS})"),
        ({"chosen": "kept", "measured_at": MEASURED}, f" (measured on 2026-11-28: {STEPS})"),
    ],
)
def test_a_log_says_why_an_engine_was_chosen(changes, reason):
    event = Compiled(7, 3.0, "warm", "fast, 2 devices", dataclasses.replace(ENGINE, **changes))
    assert compiled_line(event) == (
        f"compiled in 3.0 s (warm cache): 7 parameters, engine fast{reason}"
    )


def test_bars_show_epoch_value_rate_and_time_left():
    screen, out = console(terminal=True)
    bars = Bars(Board(screen))
    record = make_run().record
    bars.loaded(load_experiment(EXPERIMENTS / "standard.yaml"))
    bars.started(record, 10)
    bars.event(Compiled(160_362, 3.0, "cold", "fast, rows of 25 images"))
    bars.event(StepDone(record.seeds[0], 1, 5, 10))
    bars.board.progress.refresh()
    halfway = out.getvalue()
    bars.event(EPOCH)
    bars.board.progress.refresh()
    text = out.getvalue()
    bars.finished(Path("results/standard/x"))
    assert "conv 32 @ 5x5, relu" in text
    assert "compiled in 3.0 s (cold cache): 160,362 parameters, engine fast\n" in text
    assert f"epoch 1/{record.epochs}" in halfway
    assert f"epoch 1/{record.epochs}, accuracy 90.00%" in text
    assert "2,000 images/s" in text
    assert "images/s 0:04 left" in text  # two epochs of 2.1 s
    assert bars.folder == Path("results/standard/x")
    assert bars.board.progress.tasks == []


@pytest.mark.parametrize(("encoding", "curve"), [("utf-8", "▁▄█"), ("ascii", "_=@")])
def test_bars_draw_the_course_of_a_seed(encoding, curve):
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    screen = Console(file=out, force_terminal=True, width=80, color_system=None)
    bars = Bars(Board(screen))
    bars.loaded(load_experiment(EXPERIMENTS / "standard.yaml"))
    bars.started(make_run().record, 10)
    seen = []
    for number, accuracy in enumerate((0.9, 0.94, 0.98), start=1):
        bars.event(dataclasses.replace(EPOCH, epoch=number, metrics={"accuracy": accuracy}))
        assert bars.task is not None
        seen.append(bars.board.progress.tasks[0].fields["curve"])
    assert (seen[0], seen[2]) == ("", curve)
    bars.event(dataclasses.replace(EPOCH, seed=1))
    assert bars.board.progress.tasks[0].fields["curve"] == ""
    bars.close()


def test_the_value_of_a_seed_is_not_that_of_the_one_before():
    bars = Bars(Board(console(terminal=True)[0]))
    bars.loaded(load_experiment(EXPERIMENTS / "standard.yaml", ["seeds=[1,2]"]))
    bars.started(make_run(seeds=(1, 2)).record, 10)
    bars.event(StepDone(1, 1, 1, 10))
    for number in (1, 2, 3):
        bars.event(dataclasses.replace(EPOCH, seed=1, epoch=number))
    summary = make_run(seeds=(1,)).summary
    assert summary is not None
    bars.event(SeedDone(summary.seeds[0], np.empty(0), None, {}))
    assert bars.value == ", accuracy 90.00%"
    bars.event(StepDone(2, 1, 1, 10))
    assert (bars.value, bars.curve) == ("", "")
    bars.close()


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (100, "Standard CNN: seed 1 epoch 2/3, accuracy 90.00% ▅▅ ━━ 12,345 images/s"),
        (88, "Standard CNN: seed 1 epoch 2/3, accuracy 90.00% ▅▅ ━━ 12,345 images/s"),
        (87, "Standard CNN: seed 1 epoch 2/3, accuracy 90.00% ━━ 12,345 images/s"),
        (80, "Standard CNN: seed 1 epoch 2/3, accuracy 90.00% ━━"),
        (70, "Standard CNN: seed 1 epoch 2/3, 90.00% ━━"),
        (61, "Standard...: seed 1 epoch 2/3, 90.00% ━━"),
        (52, "...: seed 1 epoch 2/3, 90.00% ━━"),
    ],
)
def test_what_finds_no_room_is_left_out_and_no_word_is_cut(width, line):
    out = io.StringIO()
    screen = Console(file=out, force_terminal=True, width=width, color_system=None)
    bars = Bars(Board(screen), several=True)
    bars.loaded(load_experiment(EXPERIMENTS / "standard.yaml", ["seeds=[1,2]"]))
    bars.started(make_run(seeds=(1, 2)).record, 10)
    bars.event(Compiled(160_362, 3.0, "cold", "fast"))
    for number in (1, 2):
        bars.event(dataclasses.replace(EPOCH, seed=1, epoch=number, samples_per_s=12_345.0))
    bars.board.progress.refresh()
    shown = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", out.getvalue()).split("\r")[-1].splitlines()
    own, seeds = (" ".join(re.sub("[━╸╺]+", "━━", text).split()) for text in shown[-2:])
    assert own == line
    assert seeds == "0 of 2 seeds ━━ 0:08 left"  # 4 epochs of 2.1 s
    assert max(map(len, shown)) <= width
    bars.close()


def test_a_log_says_how_long_a_seed_waited_for_streamed_images():
    """Of 2.1 seconds of each epoch; nothing if the images are in memory."""
    screen, out = console(terminal=False)
    record, summary = make_run(seeds=(0, 1)).record, make_run(seeds=(0, 1)).summary
    assert summary is not None
    lines = Lines(screen)
    lines.loaded(load_experiment(EXPERIMENTS / "standard.yaml"))
    lines.started(record, 10)
    for waits in ((0.021, 0.0), (0.0, 0.0)):
        for seconds in waits:
            lines.event(dataclasses.replace(EPOCH, data_s=seconds))
        lines.event(SeedDone(summary.seeds[0], np.zeros((0, 1, 1, 1)), None, {}))
    assert [line for line in out.getvalue().splitlines() if "waited" in line] == [
        "waited 0.5% of the epochs for data"
    ]


def test_a_log_line_writes_values_as_the_tables_do():
    values = "train loss 0.5000, val loss 0.2500, accuracy 90.00%, 2.00 s"
    assert epoch_line(EPOCH, 3) == f"seed 0, epoch 1/3: {values}"
    assert epoch_line(EPOCH, 3, width=100) == f"seed 0, epoch 1/3: {values}, 2,000 images/s"
    assert epoch_line(EPOCH, 3, with_seed=False) == f"epoch 1/3: {values}"
    quality = dataclasses.replace(
        EPOCH, validation_loss=0.07434, metrics={"psnr": 11.49, "ssim": 0.1}
    )
    assert epoch_line(quality, 3) == (
        "seed 0, epoch 1/3: train loss 0.5000, val loss 0.07434, PSNR 11.49, 2.00 s"
    )


@pytest.mark.parametrize(
    "title", ["", "Standard CNN", "Variational autoencoder, 2-D code", "卷积" * 40]
)
@pytest.mark.parametrize("seed", [0, 4294967295])
def test_a_line_of_a_log_has_80_columns_at_most(title: str, seed: int) -> None:
    """Values go before the title, images/s first and accuracy last; wide characters count twice."""
    metrics = {"accuracy": 1.0, "brier_score": 0.0123456, "top5_accuracy": 0.9999}
    epoch = dataclasses.replace(EPOCH, seed=seed, epoch=1000, metrics=metrics, train_s=12345.6)
    line = epoch_line(epoch, 1000, title)
    assert cell_len(line) <= 80
    assert "accuracy 100.00%" in line
    assert f"seed {seed}, epoch 1000/1000: " in line
    summary = make_run().summary
    assert summary is not None
    done = dataclasses.replace(summary.seeds[0], seed=seed, train_s=12345.6)
    assert cell_len(seed_line(done, (100, 1000), title)) <= 80


def trained(run: RunResult, listener: Lines) -> None:
    """Passes the events of a run to a listener."""
    assert run.summary is not None
    listener.started(run.record, 10)
    for summary in run.summary.seeds:
        for epoch in run.epochs:
            if epoch.seed == summary.seed:
                listener.event(epoch)
        nothing = np.empty(0)
        listener.event(SeedDone(summary, nothing, None, {}))


@pytest.mark.parametrize("verbose", [False, True])
def test_several_seeds_are_a_line_each_unless_all_is_asked_for(verbose: bool) -> None:
    screen, out = console(terminal=False)
    trained(make_run(seeds=range(12)), Lines(screen, verbose=verbose))
    lines = out.getvalue().splitlines()
    assert len([line for line in lines if "epoch 2/3:" in line]) == (12 if verbose else 0)
    assert [line for line in lines if "(11/12)" in line] == [
        "seed 10 (11/12): val loss 0.005115, val accuracy 97.50%, 20.67 s"
    ]
    assert len(lines) == 12 + (36 + 2 if verbose else 0) + 2
    assert max(map(len, lines)) <= 80


def test_one_seed_is_a_line_an_epoch() -> None:
    screen, out = console(terminal=False)
    trained(make_run(), Lines(screen))
    assert out.getvalue().splitlines()[2:] == [
        "epoch 1/3: train loss 0.5000, val loss 0.01235, accuracy 93.00%, 6.77 s",
        "epoch 2/3: train loss 0.2500, val loss 0.006173, accuracy 95.00%, 6.79 s",
        "epoch 3/3: train loss 0.1667, val loss 0.004115, accuracy 97.00%, 6.81 s",
    ]


def test_a_seed_that_diverged_says_so() -> None:
    summary = make_run().summary
    assert summary is not None
    lost = dataclasses.replace(summary.seeds[0], diverged=2)
    assert seed_line(lost, (1, 6), "CNN") == (
        "CNN, seed 0 (1/6): diverged in epoch 2, the loss is not finite"
    )


def test_the_time_left_is_that_of_all_runs() -> None:
    """Two runs of two seeds and ten epochs: one at 2 s an epoch has 15 to go, the other 20."""
    begun = RunProgress(2, 10, done=5.0, seconds=10.0, timed=5)
    assert seconds_left([RunProgress(2, 10), RunProgress(1, 3)]) is None
    assert seconds_left([begun, RunProgress(2, 10)]) == 15 * 2 + 20 * 2
    assert (
        seconds_left([begun, RunProgress(2, 10, done=1.5, seconds=3.0, timed=1)])
        == 15 * 2 + 18.5 * 3
    )
    resumed = RunProgress(2, 10, done=19.0, seconds=4.0, timed=1)
    assert seconds_left([resumed]) == 4
    compiled = dataclasses.replace(begun, compile_s=7.0)
    waiting, ended = RunProgress(2, 10), RunProgress(2, 10, ended=True)
    assert seconds_left([compiled, waiting, ended]) == 15 * 2 + 20 * 2 + 7


def test_the_bar_of_all_seeds_knows_every_run() -> None:
    screen, _ = console(terminal=True)
    one, other = make_listeners(screen, 2, quiet=False)
    assert isinstance(one, Bars)
    for listener in (one, other):
        listener.loaded(load_experiment(EXPERIMENTS / "standard.yaml", ["seeds=3"]))
    trained(make_run(seeds=(0, 1, 2)), one)
    *_, seeds = one.board.progress.tasks
    assert seeds.description == "3 of 6 seeds"
    other.finished(Path("x"))  # it was trained before
    one.finished(Path("y"))
    assert one.board.progress.tasks == []


def test_layers_are_shown_for_one_network_or_if_asked_for() -> None:
    for number, verbose, shown in ((1, False, True), (2, False, False), (2, True, True)):
        screen, out = console(terminal=False)
        first = make_listeners(screen, number, quiet=False, verbose=verbose)[0]
        first.loaded(load_experiment(EXPERIMENTS / "standard.yaml"))
        assert ("conv 32 @ 5x5" in out.getvalue()) == shown


@pytest.mark.parametrize(
    ("precision", "device", "shown"),
    [("bfloat16", "cpu", 1), ("float32", "cpu", 0), ("bfloat16", "gpu", 0)],
)
@pytest.mark.parametrize("terminal", [True, False])
def test_bfloat16_on_a_cpu_is_remarked_once(precision, device, shown, terminal) -> None:
    screen, out = console(terminal=terminal)
    listener = make_listeners(screen, 1, quiet=False, verbose=False)[0]
    setting = [f"train.precision={precision}"]
    listener.loaded(load_experiment(EXPERIMENTS / "standard.yaml", setting))
    run = make_run(seeds=range(3))
    environment = dataclasses.replace(run.record.environment, device_kind=device)
    listener.started(dataclasses.replace(run.record, environment=environment), 10)
    text = " ".join(out.getvalue().split())
    assert text.count("bfloat16 was slower than float32 on a CPU: 5,400 images/s instead") == shown


def test_epochs_before_a_resumption_are_counted_with_their_seeds():
    one = make_run().epochs[0]
    other = dataclasses.replace(one, seed=one.seed + 1)
    assert resumed_line(Resumed([one]), 3) == "resuming after 1 of 3 epochs"
    assert resumed_line(Resumed([one, other]), 6) == "resuming after 2 of 6 epochs"
    assert resumed_line(Resumed([]), 6) == "no epoch was finished; starting from scratch"


def test_bars_share_their_room():
    """A long title takes the room of another bar's rate, because columns are those of all."""
    long = Said("Convolutional autoencoder: ", "epoch 1/3", ", loss 0.0720", "700 images/s", "")
    short = Said("CNN: ", "epoch 1/3", ", accuracy 90.00%", "12,345 images/s", "_@")
    assert status([short], 60)[0] == ("CNN: epoch 1/3, accuracy 90.00%", "12,345 images/s", "_@")
    assert status([short, long], 60) == [
        ("CNN: epoch 1/3, accuracy 90.00%", "", ""),
        ("Convolutional autoencoder: epoch 1/3, loss 0.0720", "", ""),
    ]
    assert status([short, long], 36) == [
        ("CNN: epoch 1/3, 90.00%", "", ""),
        ("Convolutional...: epoch 1/3, 0.0720", "", ""),
    ]


def test_a_terminal_breaks_lines_between_words():
    text = "compiled 160,362 parameters in 3.0 s (cold); engine fast, rows of 25 images"
    for terminal in (True, False):
        out = io.StringIO()
        screen = Console(file=out, force_terminal=terminal, width=60, color_system=None)
        lines = Lines(screen)
        lines.say(text)
        lines.note(text)
        said = ["compiled 160,362 parameters in 3.0 s (cold); engine fast, ", "rows of 25 images"]
        assert out.getvalue().splitlines() == (said if terminal else [text]) * 2


def test_bars_go_away_after_an_error():
    screen, _ = console(terminal=True)
    bars = Bars(Board(screen))
    bars.loaded(load_experiment(EXPERIMENTS / "standard.yaml"))
    bars.close()
    bars.close()
    assert bars.board.progress.finished


def test_silent_passes_on_notes_only():
    screen, out = console(terminal=False)
    silent = Silent(screen)
    silent.loaded(load_experiment(EXPERIMENTS / "standard.yaml"))
    silent.started(make_run().record, 10)
    silent.event(EPOCH)
    silent.finished(Path("x"))
    assert (out.getvalue(), silent.folder) == ("", Path("x"))
    silent.note("a stand-in is used")
    assert out.getvalue() == "a stand-in is used\n"


def test_a_command_is_not_broken_over_lines_of_a_terminal():
    """It could not be pasted; the terminal itself continues it on its next row."""
    screen, out = console(terminal=True)
    command = f"cnnbench run --resume '{'a folder ' * 10}'"
    Silent(screen).note(f"interrupted; resume with: {command}")
    assert command in out.getvalue()
    Silent(screen).note("word " * 20)
    assert len(out.getvalue().splitlines()) == 3
