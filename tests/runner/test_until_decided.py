"""Runs that stop once a verdict is reached: what they train, record, and resume."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cnnbench.comparisons import comparability, comparison
from cnnbench.comparisons.comparison import compare, judgement
from cnnbench.comparisons.verdict import Criteria, Finding
from cnnbench.errors import IncomparableError
from cnnbench.runner.run import Request, run_experiment
from cnnbench.runner.until_decided import run_until_decided, saved
from cnnbench.runs.folder import read_run
from cnnbench.runs.records import RunResult, Status
from cnnbench.runs.verify import check_run
from cnnbench.statistics.looks import Looks, Reason
from tests.runner.test_interleaving import SPEC, Diary
from tests.support.samples import make_run, with_record

# With two seeds the smallest p of a sign-flip test is 0.5: enough for these tests.
RULE = Looks((2, 4), (0.6, 0.6), 0.6, "paired", 1, "loss", "0", (0, 1, 2, 3))
LOSS = Criteria(metric="loss", alpha=0.6)


class Looking:
    """Collects the results so far."""

    def __init__(self) -> None:
        self.looks: list[str] = []
        self.texts: list[str] = []

    def look(self, text: str) -> None:
        self.looks.append(text)

    def running(self, text: str) -> None:
        self.texts.append(text)


def requests(
    folder: Path, looks: Looks, *, rate: float = 1e-9, third: bool = False
) -> list[Request]:
    """A run, one that learns at another rate, and perhaps one like the first."""
    names = {"a": None, "b": rate} | ({"c": None} if third else {})
    found = []
    for name, own in names.items():
        path = folder / f"{name}.yaml"
        text = SPEC.format(name=name, seeds=list(looks.planned))
        if own is not None:
            text = text.replace(
                "batch_size: 10", f"batch_size: 10, optimizer: {{name: sgd, learning_rate: {own}}}"
            )
        path.write_text(text)
        found.append(Request(path, results_dir=folder / "results", engine="plain", looks=looks))
    return found


def train(
    asked: list[Request],
    criteria: Criteria = LOSS,
    disturb: Callable[[str], None] = lambda _: None,
) -> tuple[list[RunResult], Looking, list[str]]:
    happened: list[str] = []
    diaries = [Diary(request.path.stem, happened, disturb) for request in asked]
    looking = Looking()
    return run_until_decided(asked, diaries, looking, criteria), looking, happened


def test_a_clear_difference_stops_both_at_the_first_look(tmp_path: Path) -> None:
    results, looking, happened = train(requests(tmp_path, RULE))
    assert happened == ["a0", "b0", "b1", "a1", "b", "a"]
    assert [run.record.seeds for run in results] == [(0, 1), (0, 1)]
    assert all(run.record.status is Status.FINISHED for run in results)
    rules = [run.record.looks for run in results]
    assert [rule and rule.reason for rule in rules] == [Reason.DECIDED, Reason.DECIDED]
    assert [rule and rule.p_values for rule in rules] == [(), (0.5,)]
    assert [rule and rule.rule for rule in rules] == [RULE, RULE]
    assert len(looking.looks) == 1
    assert looking.looks[0].startswith("look 1, 2 seeds: loss +")
    assert looking.looks[0].endswith(", p = 0.5 (0.6 needed): decided")
    assert len(looking.texts) == 2  # after one seed, and at the look
    for run in results:
        assert run.path is not None
        assert check_run(run.path) == []
        assert sorted(f.name for f in (run.path / "weights").iterdir()) == [
            "seed-0.safetensors",
            "seed-1.safetensors",
        ]


def test_its_seeds_are_those_of_an_ordinary_run(tmp_path: Path) -> None:
    asked = requests(tmp_path, RULE)
    results, _, _ = train(asked)
    alone = run_experiment(
        replace(asked[1], looks=None, overrides=["seeds=2"]), Diary("b", [], lambda _: None)
    )
    ours, theirs = ([(e.seed, e.train_loss) for e in run.epochs] for run in (results[1], alone))
    assert ours == theirs


def test_compare_judges_by_the_threshold_of_the_look(tmp_path: Path) -> None:
    results, _, _ = train(requests(tmp_path, RULE))
    again = [read_run(run.path) for run in results if run.path]
    (verdict,) = compare(again, LOSS).verdicts
    assert verdict.finding is Finding.WORSE
    assert verdict.stopped is not None
    assert (verdict.stopped.looks, verdict.stopped.threshold) == ((2, 4), 0.6)
    (strict,) = compare(again, Criteria(metric="loss")).verdicts
    assert (strict.finding, strict.p) == (
        Finding.FEW,
        None,
    )


def test_a_look_reads_no_images_and_builds_no_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a look needs the values of the seeds only")

    monkeypatch.setattr(comparability, "read_predictions", refuse)
    monkeypatch.setattr(comparison, "_comparison", refuse)
    monkeypatch.setattr("cnnbench.runner.run.with_tables", lambda folder: read_run(folder.path))
    results, looking, _ = train(requests(tmp_path, RULE))
    assert len(looking.looks) == 1
    monkeypatch.undo()
    again = [read_run(run.path) for run in results if run.path]
    assert looking.looks[0].count(f"p = {compare(again, LOSS).verdicts[0].p}") == 1


def test_a_look_checks_that_runs_are_comparable() -> None:
    runs = [make_run(seeds=range(6)), make_run("b", "B", seeds=range(6), run_id="b")]
    whole = compare(runs).verdicts
    assert judgement(runs).verdicts == whole
    other = with_record(runs[1], epochs=2)
    for judge in (judgement, compare):
        with pytest.raises(IncomparableError, match="give both the same epochs"):
            judge([runs[0], other])


def test_equal_runs_go_on_to_the_last_look(tmp_path: Path) -> None:
    rule = replace(RULE, thresholds=(0.4, 0.2))
    results, looking, _ = train(requests(tmp_path, rule, rate=0.001), replace(LOSS, alpha=0.4))
    assert all(len(run.record.seeds) in {2, 4} for run in results)
    assert len({run.record.seeds for run in results}) == 1
    assert results[1].record.looks
    assert len(results[1].record.looks.p_values) == len(looking.looks)


def test_a_decided_run_stops_before_the_others(tmp_path: Path) -> None:
    rule = replace(RULE, comparisons=2)
    results, looking, happened = train(requests(tmp_path, rule, third=True))
    assert [len(run.record.seeds) for run in results] == [4, 2, 4]  # c equals a
    assert happened.index("b") < happened.index("a2")
    found = saved(results)
    assert found is not None
    assert (found.seeds, found.planned) == (2, 12)
    assert [line.partition(":")[0] for line in looking.looks] == [
        "look 1, b, 2 seeds",
        "look 1, c, 2 seeds",
        "look 2, c, 4 seeds",
    ]
    verdicts = compare(results, LOSS).verdicts
    assert [v.stopped and v.stopped.number for v in verdicts] == [2, 4]


def test_an_interrupted_run_goes_on_by_the_same_rule(tmp_path: Path) -> None:
    def disturb(place: str) -> None:
        if place == "b1.2":
            raise KeyboardInterrupt

    again = ("cnnbench", "run", "a", "b", "--needed")
    asked = [replace(request, again=again) for request in requests(tmp_path, RULE)]
    with pytest.raises(KeyboardInterrupt) as stopped:
        train(asked, disturb=disturb)
    assert stopped.value.__notes__ == ["continue with: cnnbench run a b --needed"]
    results, _, happened = train([replace(request, needed=True) for request in asked])
    assert len(list((tmp_path / "results").glob("*/*"))) == 2
    assert [run.record.seeds for run in results] == [(0, 1), (0, 1)]
    assert happened[-2:] == ["b", "a"]
    later, _, happened = train([replace(request, needed=True) for request in asked])
    assert happened == ["a", "b"]
    assert later == results


@pytest.mark.slow
def test_another_rule_or_none_starts_anew(tmp_path: Path) -> None:
    asked = requests(tmp_path, RULE)
    train(asked)
    other = replace(RULE, alpha=0.7)
    train([replace(request, needed=True, looks=other) for request in asked])
    assert len(list((tmp_path / "results" / "a").iterdir())) == 2


def test_a_stopped_run_can_be_trained_for_more_epochs(tmp_path: Path) -> None:
    results, _, _ = train(requests(tmp_path, RULE))
    folder = results[1].path
    assert folder is not None
    overrides = [*results[1].record.overrides, "train.epochs=3"]
    request = Request(folder / "resolved.yaml", overrides, resume=folder, engine="plain")
    longer = run_experiment(request, Diary("b", [], lambda _: None))
    assert (longer.record.seeds, longer.record.epochs) == ((0, 1), 3)


def test_anytime_counts_the_seeds_of_earlier_runs(tmp_path: Path) -> None:
    ever = Looks((), (), 0.05, "paired", 1, "loss", "0", (0, 1, 2))
    criteria = Criteria(metric="loss", anytime=True)
    results, looking, _ = train(requests(tmp_path, ever), criteria)
    assert [len(run.record.seeds) for run in results] == [3, 3]  # six seeds decide
    assert looking.looks[0].startswith("3 seeds: loss +")
    more = replace(ever, planned=tuple(range(3, 10)))
    results, looking, _ = train(requests(tmp_path, more), criteria)
    assert [run.record.seeds for run in results] == [(3, 4, 5), (3, 4, 5)]
    assert looking.looks[0].startswith("6 seeds: loss +")
    assert looking.looks[0].endswith(": decided")
