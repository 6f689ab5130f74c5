"""``cnnbench compare``: its options, what it prints, and its exit codes."""

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from cnnbench.cli.app import app
from tests.support.samples import STAND_IN, make_run, save, with_record

SEEDS = tuple(range(8))


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Two classifiers with eight seeds each, and one with a single seed."""
    save(make_run(seeds=SEEDS), tmp_path)
    save(make_run("modified", "Modified CNN", seeds=SEEDS, start=0.9213, run_id="b"), tmp_path)
    save(make_run("single", "Single", run_id="c"), tmp_path)
    return tmp_path


def compare(results: Path, *words: str) -> Result:
    options = ["--results-dir", str(results)]
    return CliRunner().invoke(app, ["compare", *words, *options], env={"COLUMNS": "80"})


def test_a_verdict_stands_below_the_table(results: Path) -> None:
    text = " ".join(compare(results, "standard", "modified").stdout.split())
    assert (
        "Verdict: Modified CNN is more accurate than Standard CNN: +1.13 points (95% CI +1.00 to "
        "+1.26, p < 0.001, 8 seeds); an epoch takes 1.00x as long (1.00x to 1.00x)."
    ) in text
    assert (
        "Verdicts: unpaired; exact permutation test of the seeds; CI: inversion of the test."
        in text
    )


@pytest.mark.parametrize("words", [[], ["--all"]])
def test_without_a_run_what_cannot_be_read_is_named(tmp_path: Path, words: list[str]) -> None:
    path = tmp_path / "standard" / "20251123T063012Z-a1b2" / "run.json"
    path.parent.mkdir(parents=True)
    path.write_text("{")
    done = compare(tmp_path, *words)
    message, told = done.stderr.splitlines()
    assert (done.exit_code, told.startswith(f"skipped: {path}:")) == (4, True)
    assert message == (
        "no finished run to compare; start one with: cnnbench run standard --results-dir"
        f" {tmp_path}"
    )


def test_the_baseline_and_the_metric_are_chosen(results: Path) -> None:
    words = ["--baseline", "modified", "--metric", "loss", "--format", "json"]
    done = compare(results, "standard", "modified", *words)
    (comparison,) = json.loads(done.stdout)["comparisons"]
    (verdict,) = comparison["verdicts"]
    assert (comparison["metric"], comparison["direction"]) == ("loss", "lower")
    assert (verdict["label"], verdict["baseline"]) == ("Standard CNN", "Modified CNN")
    assert verdict["finding"] == "no difference detected"
    assert verdict["seeds"] == list(SEEDS)


def test_the_baseline_is_a_run_id_or_its_beginning(results: Path) -> None:
    for name in ("b", "20251123T063012Z-a1b2", "20251123"):
        words = ["standard", "modified", "--baseline", name, "--format", "json"]
        (comparison,) = json.loads(compare(results, *words).stdout)["comparisons"]
        (verdict,) = comparison["verdicts"]
        assert verdict["baseline"] == ("Modified CNN" if name == "b" else "Standard CNN")
    save(make_run("third", "Third", seeds=SEEDS, run_id="20251124T000000Z-0000"), results)
    save(make_run("autoencoder", "Autoencoder", headline="loss", run_id="d"), results)
    done = compare(results, "--all", "--baseline", "202511")
    assert (done.exit_code, done.stderr) == (
        2,
        "--baseline: '202511' is a prefix of 2 RUN-IDs; write a longer one, such as "
        "20251124T000000Z-0000.\n",
    )
    done = compare(results, "--all", "--baseline", "20251124", "--format", "json")
    together, alone = json.loads(done.stdout)["comparisons"]
    assert [row["run_id"] for row in alone["rows"]] == ["d", "d"]
    assert {verdict["baseline"] for verdict in together["verdicts"]} == {"Third"}


def test_without_names_the_experiment_that_ran_first_is_the_baseline(results: Path) -> None:
    """Also when it was trained anew, and whatever the alphabet says."""
    day = datetime(2025, 11, 20, tzinfo=UTC)
    first = make_run("zero", "Zero", seeds=SEEDS)
    save(with_record(first, run_id="z1", started_at=day), results)
    save(with_record(first, run_id="z2", started_at=day + timedelta(days=9)), results)
    (comparison,) = json.loads(compare(results, "--format", "json").stdout)["comparisons"]
    assert comparison["rows"][0]["run_id"] == "z2"
    assert {verdict["baseline"] for verdict in comparison["verdicts"]} == {"Zero"}
    told = CliRunner().invoke(app, ["compare", "--help"], env={"COLUMNS": "200"}).stdout
    assert "the experiment that ran first." in " ".join(told.replace("│", " ").split())


def test_the_baseline_is_one_of_two_with_the_same_title(results: Path) -> None:
    words = ["--baseline", "Standard CNN #2", "--format", "json"]
    (comparison,) = json.loads(compare(results, "standard", "standard", *words).stdout)[
        "comparisons"
    ]
    (verdict,) = comparison["verdicts"]
    assert (verdict["label"], verdict["baseline"]) == ("Standard CNN #1", "Standard CNN #2")


WORSE = ["--baseline", "modified"]  # the standard CNN is the worse one


def test_small_differences_do_not_matter(results: Path) -> None:
    done = compare(results, "standard", "modified", "--min-effect", "2pp")
    assert (
        "Modified CNN and Standard CNN differ by less than the noise threshold of 2.00 points"
        in " ".join(done.stdout.split())
    )


@pytest.mark.parametrize(
    ("words", "code", "text"),
    [
        (["--fail-if", "accuracy:-0.2pp"], 0, "accuracy:-0.2pp passed: "),
        (
            ["--metric", "loss", "--min-effect", "1.5", "--fail-if", "accuracy:-0.2pp"],
            0,
            "accuracy:-0.2pp passed: ",
        ),
        ([*WORSE, "--fail-if", "accuracy:-0.5pp"], 3, "accuracy:-0.5pp failed: "),
        (
            [*WORSE, "--fail-if", "loss:+0.1", "--fail-if", "accuracy:-0.5pp"],
            3,
            "loss:+0.1 passed: ",
        ),
        (["--fail-if", "test_accuracy:-0.2pp"], 0, "test_accuracy:-0.2pp passed: "),
        ([*WORSE, "--fail-if", "test_loss:+0.1"], 0, "test_loss:+0.1 passed: "),
        (["--fail-if", "train_s:+10%"], 0, "train_s:+10% passed: "),
        (["--fail-if", "accuracy<90%"], 0, "accuracy<90% passed: Standard CNN: accuracy "),
        (["--fail-if", "test_accuracy<100%"], 3, "test_accuracy<100% failed: Modified CNN: "),
        (["--fail-if", "train_s>1h"], 2, "'1h' is not a time per epoch"),
    ],
)
def test_limits_decide_the_exit_code(results: Path, words: list[str], code: int, text: str) -> None:
    done = compare(results, "standard", "modified", *words)
    assert (done.exit_code, text in done.stderr) == (code, True), done.stderr


def test_an_absolute_limit_needs_no_second_run(results: Path) -> None:
    done = compare(results, "standard", "--fail-if", "accuracy<90%")
    assert done.exit_code == 0
    assert done.stderr.startswith("accuracy<90% passed: Standard CNN: accuracy ")
    done = compare(results, "single", "--fail-if", "accuracy<90%")
    assert done.exit_code == 4
    assert "with one seed, so no CI" in done.stderr


def test_a_single_run_has_no_verdict(results: Path) -> None:
    done = compare(results, "standard")
    assert (done.exit_code, "Verdict" in done.stdout) == (0, False)
    start = f"cnnbench run OTHER.yaml --results-dir {results}"
    assert done.stderr == f"A verdict takes a second run: {start}\n"


def test_one_seed_cannot_be_judged(results: Path) -> None:
    done = compare(results, "standard", "single", "--fail-if", "accuracy:-0.2pp")
    assert done.exit_code == 4
    assert "with one seed, so no CI" in done.stderr
    assert "run both with --seeds 4" in " ".join(done.stdout.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--baseline", "standart"],
            "--baseline: no run named 'standart' in this comparison (did you mean 'standard'?); "
            "write standard or modified.\n",
        ),
        (
            ["--metric", "acuracy"],
            "--metric: standard/20251123T063012Z-a1b2 has no 'acuracy' (did you mean 'accuracy'?);"
            " write accuracy, loss, test_accuracy or test_loss.\n",
        ),
        (
            ["--metric", "test_f1"],
            "--metric: standard/20251123T063012Z-a1b2 has no 'test_f1'; add macro_f1 to"
            " train.metrics and rerun it, or write accuracy, loss, test_accuracy or test_loss.\n",
        ),
        (
            ["--metric", "test_acc"],
            "--metric: standard/20251123T063012Z-a1b2 has no 'test_acc' (did you mean"
            " 'test_accuracy'?); write accuracy, loss, test_accuracy or test_loss.\n",
        ),
        (
            ["--sort-by", "speed"],
            "--sort-by: there is no column 'speed' (did you mean 'images/s'?); write type, epoch, "
            "accuracy, time, seeds, test, params, images/s, forward, backward, memory, p50, "
            "p90 or mfu, or a table header.\n",
        ),
        (
            ["--target", "98"],
            "--target: '98' is not a value of accuracy; write, for example, 0.98 or 98%.\n",
        ),
        (
            ["--min-effect", "much"],
            "--min-effect: 'much' is not an effect size; write, for example, 0.1pp (points), "
            "2% (of the baseline) or 0.003 (in the metric's unit).\n",
        ),
        (
            ["--min-effect", "5"],
            "--min-effect: accuracy is between 0 and 1, so 5 means 500 points; write 5pp for 5 "
            "points.\n",
        ),
        (
            ["--fail-if", "acuracy:-1pp"],
            "--fail-if: no run has 'acuracy' (did you mean 'accuracy'?); write accuracy, "
            "loss, test_accuracy, test_loss or train_s.\n",
        ),
        (
            ["--fail-if", "accuracy:+0.5pp"],
            "--fail-if: 'accuracy:+0.5pp' would fail a run for being better; write "
            "accuracy:-0.5pp.\n",
        ),
        (
            ["--fail-if", "slow"],
            "--fail-if: 'slow' is not a threshold; write, for example, accuracy:-0.2pp, "
            "train_s:+10% or test_accuracy<95%.\n",
        ),
    ],
)
def test_what_is_wrong_is_said(results: Path, words: list[str], message: str) -> None:
    done = compare(results, "standard", "modified", *words)
    assert (done.exit_code, done.stderr) == (2, message)


def test_a_limit_on_what_some_runs_lack_is_refused_before_any_table(results: Path) -> None:
    save(make_run("autoencoder", "Autoencoder", headline="loss", run_id="d"), results)
    done = compare(results, "--all", "--fail-if", "accuracy:-1pp")
    assert (done.exit_code, done.stdout, done.stderr) == (
        2,
        "",
        "--fail-if: autoencoder/d has no 'accuracy'; write loss, test_loss or train_s, or "
        "name runs that have it.\n",
    )


def test_without_names_one_table_is_printed_and_the_rest_is_told(results: Path) -> None:
    save(make_run("autoencoder", "Autoencoder", headline="loss", run_id="d"), results)
    done = compare(results, "--format", "json")
    (comparison,) = json.loads(done.stdout)["comparisons"]
    runs = ["20251123T063012Z-a1b2", "b", "c"]
    assert [row["run_id"] for row in comparison["costs"]] == runs
    assert " ".join(done.stderr.split()) == (
        "warning: skipped, not comparable with standard, modified and single: autoencoder;"
        f" show all with: cnnbench compare --all --results-dir {results}"
    )
    both = json.loads(compare(results, "--all", "--format", "json").stdout)["comparisons"]
    assert len(both) == 2
    done = compare(results, "standard", "--all")
    assert (done.exit_code, done.stderr) == (
        2,
        "--all: cannot be combined with 'standard'; remove one of them.\n",
    )


def test_tags_stand_behind_titles_and_name_the_baseline(results: Path) -> None:
    tagged = make_run(seeds=SEEDS, run_id="20251124T000000Z-0000")
    save(with_record(tagged, tags=("new lr",)), results)
    for baseline in ("new lr", "standard@new lr", "Standard CNN @new lr"):
        words = ["standard@new lr", "modified", "--baseline", baseline, "--format", "json"]
        done = compare(results, *words)
        (verdict,) = json.loads(done.stdout)["comparisons"][0]["verdicts"]
        assert (verdict["label"], verdict["baseline"]) == ("Modified CNN", "Standard CNN @new lr")
    assert "Standard CNN @new lr" in compare(results, "standard", "modified").stdout


def test_a_limit_needs_a_run_beside_the_baseline(results: Path) -> None:
    done = compare(results, "standard", "--fail-if", "accuracy:-0.2pp")
    assert (done.exit_code, done.stderr) == (
        2,
        "--fail-if: there is no run to compare with the baseline; name two runs.\n",
    )


def test_costs_stand_in_a_table_of_their_own(results: Path) -> None:
    lines = compare(results, "standard", "modified").stdout.splitlines()
    header = next(i for i, line in enumerate(lines) if line.startswith("Type") and "MFU" in line)
    assert lines[header].split() == ["Type", "Forward", "Backward", "Memory", "p50", "p90", "MFU"]
    cells = ["4.52", "M", "8.24", "M", "17.9", "MiB", "0.182", "ms", "1.98", "ms", "46%"]
    assert lines[header + 2].split() == ["Standard", "CNN", *cells]


def test_a_target_a_sort_and_digits_together(results: Path) -> None:
    words = ["--target", "98%", "--sort-by", "TEST", "--precision", "0", "--only-changed"]
    done = compare(results, "standard", "modified", *words)
    rows = [line.split() for line in done.stdout.splitlines()]
    assert rows[0] == ["Type", "Epoch", "Accuracy", "Test"]
    assert [row[:2] for row in rows[2:6]] == [["Modified", "CNN"]] * 2 + [["Standard", "CNN"]] * 2
    assert rows[7] == ["Type", "To", "98%"]
    assert rows[9] == ["Modified", "CNN", "20", "s"]
    assert rows[10] == ["Standard", "CNN", ">", "21", "s,", "0/8"]


def test_a_target_does_not_disturb_limits_of_another_metric(results: Path) -> None:
    words = ["--target", "98%", "--fail-if", "loss:+0.1"]
    assert compare(results, "standard", "modified", *words).exit_code == 0


def test_an_experiment_named_twice_is_its_two_newest_runs(results: Path) -> None:
    save(make_run(seeds=SEEDS, run_id="20251124T000000Z-0000"), results)
    words = ["--format", "json"]
    (comparison,) = json.loads(compare(results, "standard", "standard", *words).stdout)[
        "comparisons"
    ]
    assert [row["run_id"] for row in comparison["costs"]] == [
        "20251123T063012Z-a1b2",
        "20251124T000000Z-0000",
    ]
    assert comparison["remarks"][-1] == (
        "A/A: Standard CNN #1 and Standard CNN #2 are the same experiment with the same seeds; "
        "the difference of their times is this machine's noise, and smaller time differences are "
        "not meaningful."
    )


def test_runs_on_other_data_are_refused_with_the_reason(results: Path) -> None:
    save(with_record(make_run("other", seeds=SEEDS), dataset=STAND_IN), results)
    done = compare(results, "standard", "other")
    assert (done.exit_code, done.stdout) == (4, "")
    assert done.stderr == (
        "'standard' ran on mnist, 'other' on mnist_5k (in place of mnist); run both on the same "
        "data, for example with --dataset mnist_5k (compared: standard/20251123T063012Z-a1b2 and "
        "other/20251123T063012Z-a1b2; choose other runs by RUN-ID)\n"
    )
