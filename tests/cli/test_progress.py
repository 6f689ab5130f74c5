"""What progress looks like, on a terminal and elsewhere."""

import dataclasses
import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from cnnbench.cli.progress import (
    Bars,
    Lines,
    Said,
    Silent,
    epoch_line,
    make_listeners,
    make_progress,
    resumed_line,
    status,
)
from cnnbench.runs.records import EpochRecord
from cnnbench.spec.loader import load_experiment
from cnnbench.training.events import Compiled, Resumed, StepDone
from tests.support.paths import EXPERIMENTS
from tests.support.samples import make_run

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


def test_bars_show_epoch_value_rate_and_time_left():
    screen, out = console(terminal=True)
    bars = Bars(make_progress(screen))
    record = make_run().record
    bars.loaded(load_experiment(EXPERIMENTS / "standard.yaml"))
    bars.started(record, 10)
    bars.event(Compiled(160_362, 3.0, "cold", "fast, rows of 25 images"))
    bars.event(StepDone(record.seeds[0], 1, 5, 10))
    bars.progress.refresh()
    halfway = out.getvalue()
    bars.event(EPOCH)
    bars.progress.refresh()
    text = out.getvalue()
    bars.finished(Path("results/standard/x"))
    assert "conv 32 @ 5x5, relu" in text
    assert "compiled 160,362 parameters in 3.0 s (cold)" in text
    assert "engine fast, rows of 25 images" in " ".join(text.split())
    assert f"epoch 1/{record.epochs}" in halfway
    assert f"epoch 1/{record.epochs}, accuracy 90.00%" in text
    assert "2,000 images/s" in text
    assert re.search(r"images/s \d+:\d\d", text)  # the time that is left
    assert out.getvalue().rstrip().endswith("wrote results/standard/x")


@pytest.mark.parametrize(("encoding", "curve"), [("utf-8", "▁▄█"), ("ascii", "_=@")])
def test_bars_draw_the_course_of_a_seed(encoding, curve):
    out = io.TextIOWrapper(io.BytesIO(), encoding)
    screen = Console(file=out, force_terminal=True, width=80, color_system=None)
    bars = Bars(make_progress(screen))
    bars.loaded(load_experiment(EXPERIMENTS / "standard.yaml"))
    bars.started(make_run().record, 10)
    seen = []
    for number, accuracy in enumerate((0.9, 0.94, 0.98), start=1):
        bars.event(dataclasses.replace(EPOCH, epoch=number, metrics={"accuracy": accuracy}))
        assert bars.task is not None
        seen.append(bars.progress.tasks[0].fields["curve"])
    assert (seen[0], seen[2]) == ("", curve)
    bars.event(dataclasses.replace(EPOCH, seed=1))
    assert bars.progress.tasks[0].fields["curve"] == ""
    bars.close()


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (100, "Standard CNN: seed 1 epoch 2/3, accuracy 90.00% ▅▅ ━━ 12,345 images/s"),
        (80, "Standard CNN: seed 1 epoch 2/3, accuracy 90.00% ▅▅ ━━ 12,345 images/s"),
        (79, "Standard CNN: seed 1 epoch 2/3, accuracy 90.00% ━━ 12,345 images/s"),
        (70, "Standard CNN: seed 1 epoch 2/3, accuracy 90.00% ━━"),
        (60, "Standard CNN: seed 1 epoch 2/3, 90.00% ━━"),
        (53, "Standard...: seed 1 epoch 2/3, 90.00% ━━"),
        (48, "...: seed 1 epoch 2/3, 90.00% ━━"),
    ],
)
def test_what_finds_no_room_is_left_out_and_no_word_is_cut(width, line):
    out = io.StringIO()
    screen = Console(file=out, force_terminal=True, width=width, color_system=None)
    bars = Bars(make_progress(screen), several=True)
    bars.loaded(load_experiment(EXPERIMENTS / "standard.yaml"))
    bars.started(make_run(seeds=(1, 2)).record, 10)
    bars.event(Compiled(160_362, 3.0, "cold", "fast"))
    for number in (1, 2):
        bars.event(dataclasses.replace(EPOCH, seed=1, epoch=number, samples_per_s=12_345.0))
    bars.progress.refresh()
    last = re.sub(r"\x1b\[[\d;?]*[A-Za-z]", "", out.getvalue().rpartition("\r")[2])
    words = re.sub("[━╸╺]+", "━━", last).split()
    assert re.fullmatch(r"-:--:--|--:--|\d\d:\d\d", words.pop())
    assert " ".join(words) == line
    assert len(last) <= width
    bars.close()


def test_a_log_line_writes_values_as_the_tables_do():
    assert epoch_line(EPOCH, 3) == (
        "seed 0, epoch 1/3: train loss 0.5000, validation loss 0.2500, accuracy 90.00%, 2.00 s,"
        " 2,000 images/s"
    )
    quality = dataclasses.replace(
        EPOCH, validation_loss=0.07434, metrics={"psnr": 11.49, "ssim": 0.1}
    )
    assert "validation loss 0.07434, PSNR 11.49, SSIM 0.1000, " in epoch_line(quality, 3)


def test_epochs_before_a_resumption_are_counted_with_their_seeds():
    one = make_run().epochs[0]
    other = dataclasses.replace(one, seed=one.seed + 1)
    assert resumed_line(Resumed([one])) == "resuming after 1 epoch"
    assert resumed_line(Resumed([one, other])) == "resuming after 2 epochs of 2 seeds"


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


def test_a_terminal_breaks_lines_between_words_but_no_path():
    text = "compiled 160,362 parameters in 3.0 s (cold); engine fast, rows of 25 images"
    for terminal in (True, False):
        out = io.StringIO()
        screen = Console(file=out, force_terminal=terminal, width=60, color_system=None)
        lines = Lines(screen)
        lines.say(text)
        lines.note(text)
        lines.finished(Path("results/" + "x" * 60))
        said = ["compiled 160,362 parameters in 3.0 s (cold); engine fast, ", "rows of 25 images"]
        wrote = f"wrote results/{'x' * 60}"
        assert out.getvalue().splitlines() == [*(said if terminal else [text]) * 2, wrote]


def test_bars_go_away_after_an_error():
    screen, _ = console(terminal=True)
    bars = Bars(make_progress(screen))
    bars.loaded(load_experiment(EXPERIMENTS / "standard.yaml"))
    bars.close()
    bars.close()
    assert bars.progress.finished


def test_silent_passes_on_notes_only():
    screen, out = console(terminal=False)
    silent = Silent(screen)
    silent.loaded(load_experiment(EXPERIMENTS / "standard.yaml"))
    silent.started(make_run().record, 10)
    silent.event(EPOCH)
    silent.finished(Path("x"))
    assert out.getvalue() == ""
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
