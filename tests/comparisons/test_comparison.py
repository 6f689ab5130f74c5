"""Comparisons: their numbers, groups and remarks, and the runs that are refused."""

import dataclasses
import math
import re
import statistics
import subprocess
import sys
from collections.abc import Collection

import pytest

from cnnbench.api.selection import printed
from cnnbench.comparisons.comparability import run_path
from cnnbench.comparisons.comparison import compare, compare_groups
from cnnbench.comparisons.timing_warnings import Cause
from cnnbench.comparisons.verdict import Criteria, Finding
from cnnbench.comparisons.verdict_text import sentence
from cnnbench.errors import IncomparableError
from cnnbench.formatting import MISSING
from cnnbench.report.comparison import markdown, terminal_table
from cnnbench.report.csv_json import json_text
from cnnbench.report.html import table_page
from cnnbench.report.latex import latex
from cnnbench.runs.records import Direction, RunResult, Status, facts_of
from tests.support.limits import can_take
from tests.support.samples import MNIST, STAND_IN, make_run, on_device, on_other, with_record

AGAIN = "; re-run it with: cnnbench run experiments/standard.yaml"


def modified(**changes: object) -> RunResult:
    return with_record(make_run("modified", "Modified CNN", start=0.92), **changes)


class TestRows:
    def test_first_and_last_epoch_of_each_run_in_the_given_order(self) -> None:
        found = compare([modified(), make_run()])
        assert [(row.label, row.epoch) for row in found.rows] == [
            ("Modified CNN", 1),
            ("Modified CNN", 3),
            ("Standard CNN", 1),
            ("Standard CNN", 3),
        ]
        assert (found.task, found.metric, found.direction) == (
            "classify",
            "accuracy",
            Direction.HIGHER,
        )
        assert (found.dataset, found.device_kind) == (MNIST, "cpu")
        assert found.devices == ("Example CPU @ 2.10GHz",)

    def test_values_are_of_the_epoch_over_all_seeds(self) -> None:
        run = make_run(seeds=(4, 2))
        last = compare([run]).rows[-1]
        records = {(e.seed, e.epoch): e for e in run.epochs}
        assert last.value.values == tuple(records[s, 3].metrics["accuracy"] for s in (4, 2))
        assert last.train_s.values == tuple(records[s, 3].train_s for s in (4, 2))
        assert last.train_s.mean == pytest.approx(6.84)
        assert last.images_per_s == statistics.median(e.samples_per_s for e in run.epochs)
        assert last.num_params == 160_362
        assert last.test is not None
        assert last.test.values == (0.91 + 0.07 + 0.004, 0.91 + 0.07 + 0.002)

    def test_times_exclude_seeds_trained_in_parallel(self) -> None:
        run = make_run(seeds=(4, 2))
        epochs = tuple(e if e.seed == 4 else dataclasses.replace(e, at_once=8) for e in run.epochs)
        sequential = [epoch for epoch in epochs if epoch.seed == 4]
        first, last = compare([dataclasses.replace(run, epochs=epochs)]).rows
        assert [row.train_s.values for row in (first, last)] == [
            (sequential[0].train_s,),
            (sequential[2].train_s,),
        ]
        assert last.images_per_s == statistics.median(epoch.samples_per_s for epoch in sequential)
        assert len(last.value.values) == 2

    def test_only_the_last_epoch_has_a_test_value(self) -> None:
        assert [row.test is None for row in compare([make_run()]).rows] == [True, False]

    def test_a_run_of_one_epoch_has_one_row(self) -> None:
        run = with_record(make_run(), epochs=1)
        assert [(row.epoch, row.test is None) for row in compare([run]).rows] == [(1, False)]

    def test_the_headline_of_a_reconstruction_is_its_loss(self) -> None:
        found = compare([make_run(headline="loss")])
        assert (found.metric, found.direction) == ("loss", Direction.LOWER)
        assert found.rows[0].value.values == (0.0123456,)

    def test_reconstructions_are_compared_by_their_loss_on_the_test_images(self) -> None:
        """All other fields of a verdict are the same as on the validation images."""
        seeds = tuple(range(8))
        runs = [
            make_run(name, name, headline="loss", seeds=seeds, start=start)
            for name, start in (("one", 0.5), ("two", 0.4))
        ]
        (verdict,) = compare(runs).verdicts
        tests = [[seed.test["loss"] for seed in run.summary.seeds] for run in runs if run.summary]
        expected = tuple(b - a for a, b in zip(*tests, strict=True))
        assert (verdict.metric, verdict.finding) == ("test_loss", Finding.BETTER)
        assert verdict.differences == pytest.approx(expected)
        assert compare(runs, Criteria(metric="test_loss")) == compare(runs)
        (chosen,) = compare(runs, Criteria(metric="loss")).verdicts
        assert (chosen.metric, set(chosen.differences)) == ("loss", {0.0})
        assert chosen.time_ratio == verdict.time_ratio

    def test_runs_of_one_title_are_numbered(self) -> None:
        runs = [make_run(), modified(), make_run(run_id="20251124T000000Z-0000")]
        labels = [row.label for row in compare(runs).rows][::2]
        assert labels == ["Standard CNN #1", "Modified CNN", "Standard CNN #2"]

    def test_the_model_of_a_gpu_is_the_devices_not_the_processors(self) -> None:
        gpu = {"device_kind": "gpu", "device": "Example GPU"}
        runs = [on_device(make_run(), **gpu), on_device(modified(), **gpu | {"device": "Other"})]
        assert compare(runs).devices == ("Example GPU", "Other")


REFUSALS = [
    (
        make_run("autoencoder", headline="loss"),
        "'standard' has the task classify, 'autoencoder' the task reconstruct; "
        "compare runs of the same task",
    ),
    (
        modified(dataset=STAND_IN),
        "'standard' ran on mnist, 'modified' on mnist_5k (in place of mnist); "
        "run both on the same data, for example with --dataset mnist_5k",
    ),
    (
        modified(dataset=dataclasses.replace(MNIST, digest="sha256:zz")),
        "'standard' ran on mnist with digest sha256:aa, 'modified' on mnist with digest "
        "sha256:zz; run both on the same data, for example with --dataset mnist_5k",
    ),
    (
        modified(
            dataset=dataclasses.replace(
                MNIST,
                digest="sha256:zz",
                changes=("label noise 20%, pair: 2 of 10 labels changed",),
            )
        ),
        "'standard' ran on the unchanged mnist, 'modified' with label noise 20%, pair; give both "
        "the same classes, subset, imbalance and label_noise",
    ),
    (
        modified(dataset=dataclasses.replace(MNIST, num_train=1000)),
        "'standard' has splits of 50,000 / 10,000 / 10,000 images, 'modified' splits of "
        "1,000 / 10,000 / 10,000 images; give both the same dataset sizes",
    ),
    (
        modified(batch_size=250),
        "'standard' takes 300 steps, 'modified' 600 steps; give both the same epochs, batch size "
        "and drop_last",
    ),
    (
        modified(batch_size=499, drop_last=False),
        "'standard' takes 300 steps, 'modified' 303 steps; give both the same epochs, batch size "
        "and drop_last",
    ),
    (
        on_device(modified(), device_kind="gpu"),
        "'standard' ran on cpu, 'modified' on gpu; run both with the same --device",
    ),
    (
        with_record(make_run(run_id="20251124T000000Z-0000"), dataset=STAND_IN),
        "'standard/20251123T063012Z-a1b2' ran on mnist, 'standard/20251124T000000Z-0000' on "
        "mnist_5k (in place of mnist); "
        "run both on the same data, for example with --dataset mnist_5k",
    ),
]


@pytest.mark.parametrize(("other", "reason"), REFUSALS)
def test_runs_that_measure_different_things_are_refused(other: RunResult, reason: str) -> None:
    with pytest.raises(IncomparableError) as caught:
        compare([make_run(), make_run(), other])
    these = f"{run_path(make_run().record)} and {run_path(other.record)}"
    assert str(caught.value) == f"{reason} (compared: {these}; choose other runs by RUN-ID)"
    assert caught.value.exit_code == 4


def test_reconstructions_are_compared_under_one_loss_only() -> None:
    one, other = make_run(headline="loss"), make_run("modified", headline="loss")
    why = (
        "'standard' is compared by mse loss, 'modified' compared by mae loss; train both with the"
        " same loss, or choose another --metric"
    )
    with pytest.raises(IncomparableError, match=rf"^{re.escape(why)} \(compared: "):
        compare([one, with_record(other, loss="mae")])
    assert one.summary is not None
    known = {"loss": Direction.LOWER, "ssim": Direction.HIGHER}
    one = dataclasses.replace(one, summary=dataclasses.replace(one.summary, metrics=known))
    with pytest.raises(IncomparableError, match=rf"^{re.escape(why)}, such as test_ssim \("):
        compare([one, with_record(other, loss="mae")])
    assert len(compare([make_run(), modified(loss="other")]).rows) == 4


def test_equal_steps_from_different_epochs_or_batches_are_remarked() -> None:
    """3 epochs of 100 steps: 6 epochs of twice the batch size take as many steps."""
    double = make_run("double", "Double", run_id="b")
    epochs = tuple(
        dataclasses.replace(e, epoch=e.epoch + more) for more in (0, 3) for e in double.epochs
    )
    double = dataclasses.replace(with_record(double, epochs=6, batch_size=1000), epochs=epochs)
    found = compare([make_run(), modified(), double])
    assert found.remarks == (
        "Different training recipes: Standard CNN and Modified CNN: 3 epochs, batch size 500; "
        "Double: 6 epochs, batch size 1,000. All take the same number of steps but see different "
        "numbers of images, so a difference may come from the recipe rather than the network; "
        "train all with the same epochs and batch size to rule that out.",
    )
    assert compare([make_run(), modified()]).remarks == ()


def test_test_time_augmentation_is_named() -> None:
    flipped = with_record(make_run(), test_augment="flip")
    assert compare([flipped, modified()]).remarks == (
        "Different test-time augmentation: Standard CNN: flip; Modified CNN: none. A difference may"
        " come from the evaluation rather than the network; evaluate all in the same way to rule"
        " that out.",
    )
    assert compare([flipped]).remarks == (
        "Validation and test values are with test-time augmentation (flip).",
    )


def _without(run: RunResult, seed: int, epoch: int) -> RunResult:
    epochs = tuple(e for e in run.epochs if (e.seed, e.epoch) != (seed, epoch))
    return dataclasses.replace(run, epochs=epochs)


def _summary(**changes: object) -> RunResult:
    run = make_run()
    assert run.summary is not None
    summary = dataclasses.replace(run.summary, **changes)  # type: ignore[arg-type]
    return dataclasses.replace(run, summary=summary)


UNUSABLE = [
    (with_record(make_run(), status=Status.RUNNING), "is running, not finished"),
    (
        with_record(make_run(), status=Status.FAILED, error="out of memory"),
        "is failed (out of memory), not finished",
    ),
    (dataclasses.replace(make_run(), summary=None), "has no summary.json"),
    (
        _without(make_run(seeds=(0, 1)), 1, 2),
        "is incomplete: no accuracy of seed 1, epoch 2 in epochs.jsonl",
    ),
    (
        with_record(make_run(), epochs=10**28),
        "is incomplete: no accuracy of seed 0, epoch 4 in epochs.jsonl",
    ),
    (
        dataclasses.replace(
            make_run(), epochs=tuple(dataclasses.replace(e, at_once=2) for e in make_run().epochs)
        ),
        "is incomplete: no seed trained on its own in epoch 1 of epochs.jsonl",
    ),
    (with_record(make_run(), seeds=()), "is incomplete: no seeds or epochs in run.json"),
    (with_record(make_run(), epochs=0), "is incomplete: no seeds or epochs in run.json"),
    (_summary(seeds=()), "is incomplete: no test accuracy of seed 0 in summary.json"),
    (_summary(metrics={}), "is incomplete: no direction of accuracy in summary.json"),
    (
        _summary(headline="top5_accuracy"),
        "is incomplete: no direction of top5_accuracy in summary.json",
    ),
]


@pytest.mark.parametrize(("run", "reason"), UNUSABLE, ids=[r for _, r in UNUSABLE])
def test_incomplete_runs_are_refused(run: RunResult, reason: str) -> None:
    for function in (compare, compare_groups):
        with pytest.raises(IncomparableError) as caught:
            function([run])
        on = f"; resume it with: cnnbench run --resume {run.record.run_id}"
        remedy = on if reason.endswith("not finished") else AGAIN
        assert str(caught.value) == f"standard/{run.record.run_id} {reason}{remedy}"


def test_comparing_no_run_is_refused() -> None:
    for function in (compare, compare_groups):
        with pytest.raises(IncomparableError, match=r"^no finished run to compare$"):
            function([])


def test_groups_hold_comparable_runs_in_order() -> None:
    runs = [
        make_run("autoencoder", headline="loss"),
        with_record(make_run("mlp"), dataset=STAND_IN),
        modified(),
        on_device(make_run("on_gpu"), device_kind="gpu"),
        make_run(),
    ]
    names = [[row.run.name for row in found.rows][::2] for found in compare_groups(runs)]
    assert names == [["autoencoder"], ["mlp"], ["modified", "standard"], ["on_gpu"]]


def test_import_is_light() -> None:
    code = """
import sys
from collections.abc import Collection
import cnnbench.comparisons.comparison, cnnbench.report.csv_json
import cnnbench.report.comparison, cnnbench.runs.find, cnnbench.runs.folder
heavy = {"jax", "flax", "matplotlib", "scipy", "numpy", "tensorflow", "tensorflow_datasets"}
print(sorted(heavy & set(sys.modules)))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert can_take(code, 0.8)


@pytest.mark.parametrize("metric", ["accuracy", "test_accuracy"])
def test_a_diverged_seed_is_reported_whatever_its_accuracy(metric: str) -> None:
    good, bad = make_run(seeds=(0, 1)), make_run("modified", "Modified CNN", seeds=(0, 1))
    last = bad.record.epochs
    epochs = tuple(
        dataclasses.replace(e, train_loss=math.nan) if (e.seed, e.epoch) == (1, last) else e
        for e in bad.epochs
    )
    found = compare([good, dataclasses.replace(bad, epochs=epochs)], Criteria(metric=metric))
    assert found.verdicts[0].finding is Finding.DIVERGED
    assert found.remarks == ("Warning: Modified CNN diverged with seed 1 (non-finite loss).",)


def test_a_stopped_seed_counts_in_means_but_not_in_times() -> None:
    """The second of three seeds diverged in its first epoch and was stopped."""
    good, bad = make_run(seeds=(0, 1, 2)), make_run("modified", "Modified CNN", seeds=(0, 1, 2))
    epochs = tuple(
        dataclasses.replace(e, train_loss=math.inf) if e.seed == 1 else e
        for e in bad.epochs
        if e.seed != 1 or e.epoch == 1
    )
    found = compare([good, dataclasses.replace(bad, epochs=epochs)])
    first, last = found.rows[2:]
    for row in (first, last):
        assert row.lost == "1 of 3 diverged"
        assert math.isnan(row.value.mean)
        assert [math.isnan(value) for value in row.value.values] == [False, True, False]
    assert len(first.train_s.values) == 3
    assert last.train_s.values == tuple(
        e.train_s for e in bad.epochs if e.seed != 1 and e.epoch == 3
    )
    assert last.test is not None
    assert math.isnan(last.test.mean)
    assert found.verdicts[0].finding is Finding.DIVERGED
    assert found.remarks == ("Warning: Modified CNN diverged with seed 1 (non-finite loss).",)
    table = markdown([found], wide=True)
    assert "| Modified CNN | 3 | 1 of 3 diverged |" in re.sub(r" +", " ", table)


def test_a_fully_diverged_run_still_has_a_table() -> None:
    bad = make_run(seeds=(0,))
    lost = dataclasses.replace(
        bad, epochs=(dataclasses.replace(bad.epochs[0], train_loss=math.nan),)
    )
    found = compare([lost])
    assert [row.lost for row in found.rows] == ["diverged", "diverged"]
    table = re.sub(r" +", " ", markdown([found], wide=True))
    assert f"| Standard CNN | 3 | diverged | {MISSING} | diverged |" in table


SEEDS = tuple(range(8))


def run_of(name: str, *, validated: float, tested: float) -> RunResult:
    """A run whose seeds reach about the given accuracies."""
    made = make_run(name, name, seeds=SEEDS, start=validated, run_id=name)
    assert made.summary is not None
    seeds = tuple(
        dataclasses.replace(s, test={**s.test, "accuracy": tested + s.seed % 3 / 1000})
        for s in made.summary.seeds
    )
    return dataclasses.replace(made, summary=dataclasses.replace(made.summary, seeds=seeds))


OPTIMISTIC = "10,000 validation images (optimistic if they also chose hyperparameters)"
UNTOUCHED = "10,000 test images (used for nothing else)"


@pytest.mark.parametrize("metric", ["accuracy", "test_accuracy"])
def test_a_difference_on_one_split_only_is_said(metric: str) -> None:
    runs = [run_of("one", validated=0.91, tested=0.9), run_of("two", validated=0.92, tested=0.9)]
    found = compare(runs, Criteria(metric=metric))
    (remark,) = found.remarks
    if metric == "accuracy":
        assert found.verdicts[0].finding is Finding.BETTER
        start = f"Judged on the {OPTIMISTIC}; the {UNTOUCHED} do not confirm it: test accuracy"
        assert remark.startswith(f"{start} +0.00 points (95% CI ")
    else:
        assert found.verdicts[0].finding is Finding.NONE
        start = f"Judged on the {UNTOUCHED}; the {OPTIMISTIC} differ: two is more accurate than"
        assert remark.startswith(f"{start} one: +1.00 points (95% CI ")
    assert "an epoch takes" not in remark


def test_splits_that_agree_are_one_finding() -> None:
    both = [run_of("one", validated=0.91, tested=0.9), run_of("two", validated=0.92, tested=0.91)]
    start = f"Judged on the {OPTIMISTIC}; the {UNTOUCHED} agree: test accuracy"
    (remark,) = compare(both).remarks
    assert remark.startswith(f"{start} +1.00 points (95% CI ")
    same = [run_of("one", validated=0.91, tested=0.9), run_of("two", validated=0.91, tested=0.9)]
    (remark,) = compare(same).remarks
    assert remark.startswith(f"{start} +0.00 points (95% CI ")


def test_opposite_findings_are_said() -> None:
    runs = [run_of("one", validated=0.91, tested=0.9), run_of("two", validated=0.92, tested=0.89)]
    (remark,) = compare(runs).remarks
    start = f"Judged on the {OPTIMISTIC}; the {UNTOUCHED} contradict it: two is worse than one:"
    assert remark.startswith(f"{start} test accuracy -1.00")


def test_images_that_chose_epochs_are_named() -> None:
    runs = [run_of("one", validated=0.91, tested=0.9), run_of("two", validated=0.92, tested=0.91)]
    chose = [
        dataclasses.replace(r, record=dataclasses.replace(r.record, best_metric="accuracy"))
        for r in runs
    ]
    remark = compare(chose).remarks[-1]
    assert remark.startswith(
        "Judged on the 10,000 validation images (optimistic: they also chose the epochs); the"
    )


def test_too_few_seeds_contradict_nothing() -> None:
    runs = [run_of("one", validated=0.91, tested=0.9), run_of("two", validated=0.92, tested=0.9)]
    few = [dataclasses.replace(r, record=dataclasses.replace(r.record, seeds=(0,))) for r in runs]
    assert compare(few).remarks == ()


FIRST_CPU, OTHER_CPU = "Example CPU @ 2.10GHz with jax 0.10.2", "Other CPU with jax 0.11.0"


def test_seeds_of_different_machines_are_named() -> None:
    runs = [make_run(seeds=(0, 1)), make_run("modified", "Modified CNN", seeds=(0, 1))]
    assert not [note for note in compare(runs).remarks if "Different hardware" in note]
    found = compare([runs[0], on_other(runs[1], 1)])
    (note,) = [note for note in found.remarks if "Different hardware" in note]
    assert note == (
        "Different hardware or versions of JAX:"
        f" {FIRST_CPU}: Standard CNN seeds 0 and 1, Modified CNN seed 0;"
        f" {OTHER_CPU}: Modified CNN seed 1. The runs of seed 1 used different hardware, so a"
        " difference may come from rounding, and their times cannot be compared; train each seed of"
        " all experiments on the same machine and cores, as --shard does."
    )
    assert Cause.DEVICES in {warning.cause for warning in found.warnings}


@pytest.mark.parametrize(
    ("others", "effect"),
    [
        (
            [(1,), (1,)],
            "All runs of a seed are from the same hardware, so rounding favors none; times of"
            " different hardware are not pooled.",
        ),
        ([(1,)], "Rounding differs; times of different hardware are not pooled."),
    ],
)
def test_seeds_of_one_machine_each_are_fair(others: list[tuple[int, ...]], effect: str) -> None:
    runs = [make_run(seeds=(0, 1)), make_run("modified", "Modified CNN", seeds=(0, 1))]
    found = compare([on_other(run, *own) for run, own in zip(runs, others, strict=False)])
    (note,) = [note for note in found.remarks if note.startswith("Different hardware")]
    assert note.endswith(effect)


def test_runs_of_different_seeds_and_machines_are_doubted() -> None:
    runs = [make_run(seeds=(0, 1)), on_other(make_run("modified", seeds=(2, 3)), 2, 3)]
    (note,) = [note for note in compare(runs).remarks if note.startswith("Different hardware")]
    assert "A difference may come from rounding, and their times cannot be compared; " in note


def test_total_times_are_those_of_one_hardware() -> None:
    """The other machine is a hundred times as slow, which no mean shows."""
    runs = []
    for name in ("standard", "modified"):
        run = on_other(with_record(make_run(name, seeds=(0, 1)), stop_metric="loss"), 1)
        assert run.summary
        seeds = [dataclasses.replace(s, train_s=100.0**s.seed) for s in run.summary.seeds]
        runs.append(
            dataclasses.replace(run, summary=dataclasses.replace(run.summary, seeds=tuple(seeds)))
        )
        assert facts_of(runs[-1].record, runs[-1].summary).values["train_s"] == 1.0
    (note,) = [n for n in compare(runs).remarks if n.startswith("Training time of all epochs")]
    assert note.count("1.00 s") == 2


def moved(run: RunResult, seeds: Collection[int], slower: float) -> RunResult:
    """The run with some seeds trained on other hardware, with other times."""
    assert run.summary is not None
    other = [
        dataclasses.replace(s, machine=dataclasses.replace(s.machine, processor="Other CPU"))
        if s.seed in seeds and s.machine
        else s
        for s in run.summary.seeds
    ]
    epochs = [
        dataclasses.replace(e, train_s=e.train_s * slower, samples_per_s=e.samples_per_s / slower)
        if e.seed in seeds
        else e
        for e in run.epochs
    ]
    summary = dataclasses.replace(run.summary, seeds=tuple(other))
    return dataclasses.replace(run, summary=summary, epochs=tuple(epochs))


def test_times_of_different_hardware_are_never_pooled() -> None:
    """Seeds of other hardware change no time, no speed and no ratio."""
    runs = [make_run(seeds=(0, 1, 2)), make_run("modified", "Modified CNN", seeds=(0, 1, 2))]
    for seeds in ((2,), (1, 2)):  # those on the hardware of the record count
        here = compare([moved(runs[0], seeds, 1.0), runs[1]])
        found = compare([moved(runs[0], seeds, 1000.0), runs[1]])
        assert [row.train_s for row in found.rows] == [row.train_s for row in here.rows]
        assert [row.images_per_s for row in found.rows] == [row.images_per_s for row in here.rows]
        assert found.verdicts == here.verdicts
        assert not math.isnan(found.verdicts[0].time_ratio)
        assert found.warnings == here.warnings
    (note,) = [note for note in found.remarks if "times are those" in note]
    assert note == (
        "Standard CNN: times are those of 1 of 3 seeds, trained on Example CPU @ 2.10GHz; without"
        " seeds 1 and 2, on Other CPU."
    )


def test_there_is_no_time_ratio_of_different_hardware() -> None:
    runs = [make_run(seeds=(0, 1)), make_run("modified", "Modified CNN", seeds=(0, 1))]
    ratio = "Times of different hardware have no ratio; train the runs on the same to compare them."
    assert ratio not in compare(runs).remarks
    runs[1] = moved(runs[1], (0, 1), 2.0)
    found = compare(runs)
    assert math.isnan(found.verdicts[0].time_ratio)
    assert found.verdicts[0].time_interval is None
    assert ratio in found.remarks
    assert "x as long" not in sentence(found.verdicts[0])
    table = printed([terminal_table([found], wide=False)])
    texts = [table, markdown([found], wide=True), latex([found]), json_text([found])]
    texts.append(table_page([found]))
    assert [ratio in " ".join(text.split()) for text in texts] == [True] * 5
