"""Seeds trained in parts are those of one run: shards, --needed, merge and pooled comparisons."""

import dataclasses
import shutil
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from cnnbench.cli.app import app
from cnnbench.comparisons.comparison import compare
from cnnbench.comparisons.merge import covering, merged, pooled
from cnnbench.errors import UsageError
from cnnbench.runner.batches.merging import merge_runs
from cnnbench.runner.batches.shards import Shard, parse_shard, shard_requests, share
from cnnbench.runner.run import Request, run_by_turns
from cnnbench.runs.folder import RunFolder, read_run
from cnnbench.runs.records import RunResult, Status
from cnnbench.runs.verify import check_run
from cnnbench.statistics.looks import Looks
from tests.runner.test_interleaving import Diary
from tests.support.samples import make_run, on_device, save, with_record

SPEC = """\
name: {name}
task: classify
dataset: {{name: mnist_5k, train_examples: 60}}
model: {{layers: {{out: {{op: dense, units: 10}}}}}}
train: {{epochs: 2, batch_size: 20, optimizer: {{name: adam, learning_rate: {rate}}}}}
seeds: [0, 1, 2]
"""
ARMS = ("a", "b")
FIRST, SECOND = "20251123T063012Z-a1b2", "20251124T063012Z-c3d4"


def requests(folder: Path, results: Path, *names: str, needed: bool = False) -> list[Request]:
    for number, name in enumerate(names, start=1):
        (folder / f"{name}.yaml").write_text(SPEC.format(name=name, rate=0.01 * number))
    paths = [folder / f"{name}.yaml" for name in names]
    return [Request(p, (), results, device="cpu", engine="plain", needed=needed) for p in paths]


def train(asked: list[Request]) -> tuple[list[RunResult], list[str]]:
    diaries = [Diary(request.path.stem, [], lambda _: None) for request in asked]
    found = run_by_turns(asked, diaries)
    return found, [note for diary in diaries for note in diary.notes]


def numbers(run: RunResult) -> list[object]:
    """Everything that training determines, without times."""
    assert run.summary is not None
    epochs = [(e.seed, e.epoch, e.train_loss, e.validation_loss, e.metrics) for e in run.epochs]
    seeds = [(s.seed, s.final, s.test, s.weights_digest) for s in run.summary.seeds]
    return [sorted(epochs, key=lambda each: each[:2]), sorted(seeds, key=lambda each: each[0])]


def only(results: Path, name: str) -> RunResult:
    (path,) = (each.parent for each in results.glob(f"{name}/*/run.json"))
    return read_run(path)


@given(st.lists(st.integers(), unique=True), st.integers(1, 9))
def test_shards_are_disjoint_complete_and_equal(units: list[int], count: int) -> None:
    parts = [share(units, Shard(number, count)) for number in range(1, count + 1)]
    assert sorted(unit for part in parts for unit in part) == sorted(units)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("text", ["0/2", "3/2", "1", "1/2/3", "a/b", "-1/2", "", "1/0"])
def test_invalid_shards_are_refused(text: str) -> None:
    with pytest.raises(UsageError) as found:
        parse_shard(text)
    remedy = "write, for example, 1/4 for the first of four parts."
    assert str(found.value) == f"--shard: '{text}' is not I/N with I from 1 to N; {remedy}"


def test_a_shard_has_the_same_seeds_of_all_experiments(tmp_path: Path) -> None:
    parts = shard_requests(requests(tmp_path, tmp_path, *ARMS), Shard(1, 2))
    assert [part.load().experiment.seeds for part in parts] == [(0, 2), (0, 2)]
    assert shard_requests(requests(tmp_path, tmp_path, *ARMS), Shard(4, 4)) == []


@pytest.mark.parametrize("name", ARMS)
def test_merged_shards_equal_the_whole_run(machines: Path, tmp_path: Path, name: str) -> None:
    parts = [only(machines / each, name) for each in ("m2", "m1")]
    path, new = merge_runs(parts, tmp_path)
    assert new
    found, whole = read_run(path), only(machines / "whole", name)
    assert found.record.seeds == (0, 1, 2)
    assert numbers(found) == numbers(whole)
    assert check_run(path) == check_run(whole.path)  # type: ignore[arg-type]
    for file in ("weights", "predictions"):
        kept = {each.name for each in (path / file).iterdir()}
        assert kept == {f"seed-{seed}.safetensors" for seed in (0, 1, 2)}
    assert merge_runs(parts, tmp_path) == (path, False)
    assert merge_runs([*parts, found], tmp_path) == (path, False)


def part(whole: Path, seeds: tuple[int, ...], path: Path) -> RunResult:
    """A run folder with some of the seeds of a run, as a machine would have written it."""
    run = read_run(whole).only(seeds)
    assert run.summary
    shutil.copytree(whole, path)
    folder = RunFolder(path)
    folder.write_record(dataclasses.replace(run.record, run_id=path.name))
    folder.write_epochs(run.epochs)
    folder.write_summary(run.summary)
    for kind in ("weights", "predictions"):
        for file in (path / kind).iterdir():
            if file.name not in {f"seed-{seed}.safetensors" for seed in seeds}:
                file.unlink()
    return read_run(path)


@settings(max_examples=6, deadline=None)
@given(data=st.data())
def test_any_division_merged_in_any_order_is_the_whole_run(
    machines: Path, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Parts may overlap, and united runs are united again."""
    whole = only(machines / "whole", "a")
    assert whole.path
    seeds, folder = whole.record.seeds, tmp_path_factory.mktemp("parts")
    places = data.draw(st.lists(st.integers(0, 2), min_size=3, max_size=3))
    shards = [tuple(s for s, p in zip(seeds, places, strict=True) if p == n) for n in range(3)]
    twice = data.draw(st.lists(st.sampled_from(seeds), max_size=2, unique=True))
    parts = [
        part(whole.path, own, folder / f"machine-{number}")
        for number, own in enumerate([*shards, tuple(sorted(twice))])
        if own
    ]
    parts = data.draw(st.permutations(parts))
    while len(parts) > 1:
        number = data.draw(st.integers(2, len(parts)))
        path, _ = merge_runs(parts[:number], folder / "results")
        parts = [*parts[number:], read_run(path)]
    (found,) = parts
    assert found.path
    assert found.record.seeds == seeds
    assert numbers(found) == numbers(whole)
    assert check_run(found.path) == check_run(whole.path)
    for kind in ("weights", "predictions"):
        files = [
            {f.name: f.read_bytes() for f in (p / kind).iterdir()} for p in (found.path, whole.path)
        ]
        assert files[0] == files[1]


def test_compare_takes_batches_as_one(machines: Path, tmp_path: Path) -> None:
    """The verdict is that of the whole run, and the output says what was pooled."""
    for each in ("m1", "m2"):
        shutil.copytree(machines / each, tmp_path, dirs_exist_ok=True)
    found = CliRunner().invoke(app, ["compare", *ARMS, "--results-dir", str(tmp_path)])
    assert found.exit_code == 0
    assert "a: 3 seeds pooled from 2 runs" in found.stderr
    assert "over 3 seeds" in found.stdout
    runs, notes = pooled([only(machines / "m2", name) for name in ARMS], tmp_path)
    assert notes == ["a: 3 seeds pooled from 2 runs", "b: 3 seeds pooled from 2 runs"]
    whole = [only(machines / "whole", name) for name in ARMS]
    (ours,), (theirs,) = compare(runs).verdicts, compare(whole).verdicts
    assert (ours.difference, ours.p) == (theirs.difference, theirs.p)


def test_needed_trains_only_missing_seeds(tmp_path: Path) -> None:
    results = tmp_path / "results"
    (asked,) = requests(tmp_path, results, "a")
    two = dataclasses.replace(asked, overrides=("seeds=2",))
    (first,), _ = train([two])
    (whole,), said = train([dataclasses.replace(asked, needed=True)])
    assert whole.record.seeds == (0, 1, 2)
    assert {read_run(path).record.seeds for path in results.glob("a/*")} == {(0, 1), (2,)}
    text = f"2 of the 3 seeds are in {first.path}; training seed 2"
    assert any(text in each for each in said)
    (again,), said = train([dataclasses.replace(asked, needed=True)])
    assert numbers(again) == numbers(whole)
    assert any("nothing to train" in each for each in said)
    assert len(list(results.glob("a/*"))) == 2


def test_covering_takes_the_newest_run_and_no_stopped_one() -> None:
    old, new = make_run(seeds=(0, 1)), make_run(seeds=(1, 2), run_id=SECOND)
    parts, missing = covering((0, 1, 2, 3), [old, new])
    assert [part.record.seeds for part in parts] == [(0,), (1, 2)]
    assert missing == (3,)
    assert merged(parts).record.seeds == (0, 1, 2)
    stopped = with_record(new, looks=Looks((4,), (0.03,), 0.05, "unpaired", 1, "", "0", ()))
    assert covering((2,), [stopped]) == ([], (2,))


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"name": "other"}, "differ in their experiment (standard, other); name runs of one"),
        ({"spec_digest": "sha256:x"}, "differ in their settings; train all seeds with"),
        ({"status": Status.INTERRUPTED}, "is interrupted, not finished; resume it with: "),
        ({"tags": ("tune",)}, "was stopped by a rule, or is a trial; its seeds cannot"),
    ],
)
def test_unlike_runs_are_not_merged(tmp_path: Path, change: dict[str, object], reason: str) -> None:
    one = read_run(save(make_run(seeds=(0,)), tmp_path))
    two = read_run(save(with_record(make_run(seeds=(1,), run_id=SECOND), **change), tmp_path))
    with pytest.raises(UsageError) as found:
        merge_runs([one, two], tmp_path)
    assert reason in str(found.value)


def test_other_settings_are_named(machines: Path, tmp_path: Path) -> None:
    asked = requests(tmp_path, tmp_path / "results", "a")
    words = ("seeds=[7]", "train.epochs=1", "train.optimizer.learning_rate=0.5")
    (other,), _ = train([dataclasses.replace(asked[0], overrides=words)])
    one = only(machines / "m1", "a")
    with pytest.raises(UsageError) as found:
        merge_runs([one, other], tmp_path)
    keys = "train.epochs 2, 1; train.optimizer.learning_rate 0.01, 0.5"
    text = f"merge: {one.path} and {other.path} differ in their settings ({keys}); train all seeds"
    remedy = "with the same settings, or name only matching runs."
    assert str(found.value) == f"{text} {remedy}"


def test_other_images_are_named_in_short(tmp_path: Path) -> None:
    one = read_run(save(make_run(seeds=(0,)), tmp_path))
    data = dataclasses.replace(one.record.dataset, digest="sha256:" + "f" * 64)
    other = with_record(make_run(seeds=(1,), run_id=SECOND), dataset=data)
    with pytest.raises(UsageError) as found:
        merge_runs([one, read_run(save(other, tmp_path))], tmp_path)
    name, own = one.record.dataset.name, one.record.dataset.digest.removeprefix("sha256:")[:12]
    assert str(found.value).endswith(
        f"differ in their images ({name} {own}, {name} ffffffffffff); train all seeds on the same"
        " data."
    )


def test_runs_on_other_devices_are_not_merged(tmp_path: Path) -> None:
    one = read_run(save(make_run(seeds=(0,)), tmp_path))
    two = on_device(make_run(seeds=(1,), run_id=SECOND), device_kind="gpu")
    with pytest.raises(UsageError, match=r"differ in their device \(cpu, gpu\)"):
        merge_runs([one, read_run(save(two, tmp_path))], tmp_path)


def test_unequal_results_of_a_seed_name_both_runs(tmp_path: Path) -> None:
    one = read_run(save(make_run(seeds=(0, 1)), tmp_path))
    two = read_run(save(make_run(seeds=(1, 2), start=0.92, run_id=SECOND), tmp_path))
    with pytest.raises(UsageError) as found:
        merge_runs([one, two], tmp_path)
    assert str(found.value) == (
        f"merge: seed 1 has different results in {one.path} and {two.path} (test_accuracy 0.981,"
        " test_loss 0.981; test_accuracy 0.991, test_loss 0.991); leave out one of the two runs."
    )


def test_runs_with_unequal_seeds_after_pooling_stay_apart(tmp_path: Path) -> None:
    """Pooling only one arm would change what equal seeds of both have in common."""
    runs = [make_run(seeds=(0, 1)), make_run("modified", seeds=(0, 1))]
    save(make_run(seeds=(2, 3), run_id=SECOND), tmp_path)
    assert pooled(runs, tmp_path) == (runs, [])
    save(make_run("modified", seeds=(2, 3), run_id=SECOND), tmp_path)
    assert [len(run.record.seeds) for run in pooled(runs, tmp_path)[0]] == [4, 4]


def test_seeds_that_only_one_experiment_has_do_not_prevent_pooling(tmp_path: Path) -> None:
    """Such as those of the baseline of `confirm`, on fresh seeds."""
    runs = [make_run(seeds=(0, 1)), make_run("modified", seeds=(0, 1))]
    for name in ("standard", "modified"):
        save(make_run(name, seeds=(2, 3), run_id=SECOND), tmp_path)
    save(make_run(seeds=(5000, 5001), run_id="20260103T000000Z-0003"), tmp_path)
    found, notes = pooled(runs, tmp_path)
    assert [sorted(run.record.seeds) for run in found] == [[0, 1, 2, 3]] * 2
    assert notes == [
        "standard: 4 seeds pooled from 2 runs; without seeds 5000 and 5001, which not all have",
        "modified: 4 seeds pooled from 2 runs",
    ]
