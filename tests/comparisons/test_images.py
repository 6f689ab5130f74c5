"""What the results for each image add to verdicts: intervals, tests, spreads and sentences."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cnnbench.comparisons.comparison import Comparison, compare
from cnnbench.comparisons.verdict import Criteria
from cnnbench.comparisons.verdict_text import sentence
from cnnbench.data.splits import RandomSplit
from cnnbench.errors import StoreError
from cnnbench.report.csv_json import json_text
from cnnbench.runs.folder import RunFolder, predictions_file, read_predictions
from cnnbench.runs.records import DatasetRecord, RunResult
from cnnbench.statistics.crossed import paired, unpaired
from cnnbench.statistics.looks import Looks
from cnnbench.statistics.matched_pairs import compare_pairs
from cnnbench.statistics.multiple_tests import holm_levels
from cnnbench.statistics.spread import spread
from tests.support.samples import MNIST, make_run

IMAGES = 400
DATA = dataclasses.replace(MNIST, num_validation=IMAGES, num_test=IMAGES)
SEEDS = (0, 1, 2, 3)


def draw(seeds: int, errors: float, number: int) -> Any:
    """Right or wrong, (seeds, images); some images are hard for every seed."""
    rng = np.random.default_rng(number)
    hard = np.random.default_rng(99).random(IMAGES) < 0.1
    return rng.random((seeds, IMAGES)) > np.where(hard, 0.5, errors)


def run_with(
    folder: Path,
    name: str,
    correct: Any,
    *,
    seeds: Sequence[int] = SEEDS,
    data: DatasetRecord = DATA,
) -> RunResult:
    """A run whose seeds classify these images correctly, in a folder with its predictions."""
    path = folder / name
    path.mkdir(parents=True)
    made = make_run(name, name.title(), seeds=seeds, run_id=name)
    assert made.summary is not None
    labels = np.arange(IMAGES) % 10
    shares = dict(zip(seeds, correct.mean(axis=1).tolist(), strict=True))
    for seed, own in zip(seeds, correct, strict=True):
        arrays = {"validation_accuracy": own, "test_accuracy": own, "test_label": labels}
        RunFolder(path).write_predictions(seed, arrays | {"validation_label": labels})
    epochs = tuple(
        dataclasses.replace(e, metrics={"accuracy": shares[e.seed]}) for e in made.epochs
    )
    summaries = tuple(
        dataclasses.replace(s, test=dict(s.test) | {"accuracy": shares[s.seed]})
        for s in made.summary.seeds
    )
    summary = dataclasses.replace(made.summary, seeds=summaries)
    record = dataclasses.replace(made.record, dataset=data)
    return RunResult(record, summary, epochs, path=path)


def compared(folder: Path, number: int = 4, **criteria: Any) -> tuple[Comparison, Any, Any]:
    base, arm = draw(number, 0.12 if number == 1 else 0.05, 1), draw(number, 0.02, 2)
    seeds = tuple(range(number))
    runs = [run_with(folder, n, c, seeds=seeds) for n, c in (("one", base), ("two", arm))]
    return compare(runs, Criteria(**criteria)), base, arm


@pytest.mark.parametrize("test", ["unpaired", "paired"])
def test_the_interval_is_that_of_the_test(test: Any, tmp_path: Path) -> None:
    found, base, arm = compared(tmp_path, 7, test=test)
    (verdict,) = found.verdicts
    want = unpaired(arm, base) if test == "unpaired" else paired(arm.astype(float) - base)
    assert verdict.images is not None
    assert verdict.images.interval == want.interval(0.95, verdict.interval)
    assert (verdict.images.std_error, verdict.images.df) == (want.std_error, want.df)
    assert verdict.difference == pytest.approx(want.difference)
    ends = want.interval(0.95, verdict.interval)
    shown = f"{100 * ends.low:+.2f} to {100 * ends.high:+.2f}"
    if ends == verdict.interval:
        shown = "the same"
    assert f" seeds; {shown} over seeds and images); an" in sentence(verdict)


def test_looks_make_the_interval_wider(tmp_path: Path) -> None:
    """The level is that of the look at which training stopped."""
    looks = Looks((5, 7), (0.03, 0.02), 0.05, "unpaired", 1, "", "0", tuple(range(7)), (0.5, 0.01))
    runs = []
    for name, bits in (("one", draw(7, 0.05, 1)), ("two", draw(7, 0.02, 2))):
        run = run_with(tmp_path, name, bits, seeds=tuple(range(7)))
        record = dataclasses.replace(run.record, looks=looks)
        runs.append(dataclasses.replace(run, record=record))
    (verdict,) = compare(runs).verdicts
    assert verdict.images is not None
    want = unpaired(draw(7, 0.02, 2), draw(7, 0.05, 1))
    assert verdict.images.interval == want.interval(0.98, verdict.interval)


def test_an_interval_with_zero_over_images_raises_a_doubt(tmp_path: Path) -> None:
    """The second run is right about six more images with every seed."""
    base = np.repeat(np.arange(IMAGES)[None] >= 30, 4, axis=0)
    arm = base | (np.arange(IMAGES) < 18)
    arm &= (np.arange(IMAGES) < 40) | (np.arange(IMAGES) >= 52)
    noise = [np.roll(np.arange(IMAGES) == 100, s) for s in range(4)]
    runs = [run_with(tmp_path, "one", base ^ noise), run_with(tmp_path, "two", arm ^ noise)]
    (verdict,) = compare(runs).verdicts
    assert verdict.finding == "better"
    assert " over seeds and images, so other images may not show it); an" in sentence(verdict)


def test_images_only_one_gets_right_are_counted(tmp_path: Path) -> None:
    found, base, arm = compared(tmp_path)
    evidence = found.verdicts[0].images
    assert evidence is not None
    pairs = [(one, two) for one in base for two in arm]
    assert evidence.only_base == pytest.approx(np.mean([(a & ~b).sum() for a, b in pairs]))
    assert evidence.only_run == pytest.approx(np.mean([(b & ~a).sum() for a, b in pairs]))
    text = (
        f"Of the 400 validation images, only One gets {evidence.only_base:.1f} right,"
        f" and only Two {evidence.only_run:.1f} (mean over seeds)."
    )
    assert text in found.image_notes


def test_classes_that_make_up_most_of_them_are_named(tmp_path: Path) -> None:
    base, labels = np.ones((4, IMAGES), bool), np.arange(IMAGES) % 10
    arm = ~(((labels == 8) | (labels == 9)) & (np.arange(IMAGES) < 200)) & base
    arm[:, 0] = False
    runs = [run_with(tmp_path, "one", base), run_with(tmp_path, "two", arm)]
    found = compare(runs)
    (verdict,) = found.verdicts
    assert verdict.images is not None
    assert [(c.name, round(c.share, 3)) for c in verdict.images.classes] == [
        ("8", 0.488),
        ("9", 0.488),
    ]
    assert any(
        line.endswith("(mean over seeds); classes 8 and 9 make up 98% of them.")
        for line in found.image_notes
    )


def test_one_seed_each_is_a_verdict_on_the_trained_networks(tmp_path: Path) -> None:
    found, base, arm = compared(tmp_path, 1)
    (verdict,) = found.verdicts
    only_base, only_arm = int((base & ~arm).sum()), int((arm & ~base).sum())
    want = compare_pairs(IMAGES, only_base, only_arm)
    assert verdict.images is not None
    assert verdict.images.pairs == want
    low, high = 100 * want.interval.low, 100 * want.interval.high
    p = "p < 0.001" if want.p < 0.001 else f"p = {want.p:.2g}"
    shown = (
        f"{100 * want.difference:+.2f} points (95% CI {low:+.2f} to {high:+.2f} over images, {p}"
    )
    assert sentence(verdict).startswith(
        f"With one seed each, the trained Two is more accurate than the trained One: {shown};"
        f" only Two gets {only_arm} images right, only One {only_base}); whether the architectures"
        " differ takes 4 seeds: run both with --seeds 4"
    )
    (grounds,) = [text for text in found.remarks if text.startswith("Judged on")]
    assert grounds == (
        "Judged on the 400 validation images (optimistic if they also chose hyperparameters); the"
        f" 400 test images (used for nothing else) agree: test accuracy {shown})."
    )
    method = "p of two trained networks: McNemar's exact test; CI: Tango's score interval."
    assert method in found.image_notes


def test_networks_that_may_be_equal_are_said_to_be(tmp_path: Path) -> None:
    both = draw(1, 0.05, 1)
    other = both.copy()
    other[0, :3] ^= True
    runs = [run_with(tmp_path, n, c, seeds=(0,)) for n, c in (("one", both), ("two", other))]
    text = sentence(compare(runs).verdicts[0])
    assert text.startswith(
        "With one seed each, no difference detected between the trained Two and the trained One:"
        " accuracy "
    )


def test_a_trained_network_that_is_worse_is_said_to_be(tmp_path: Path) -> None:
    good, bad = draw(1, 0.02, 1), draw(1, 0.2, 2)
    runs = [run_with(tmp_path, n, c, seeds=(0,)) for n, c in (("one", good), ("two", bad))]
    text = sentence(compare(runs).verdicts[0])
    assert text.startswith(
        "With one seed each, the trained Two is less accurate than the trained One: -"
    )
    (verdict,) = compare(runs, Criteria(metric="test_accuracy")).verdicts
    text = sentence(verdict)
    assert text.startswith(
        "With one seed each, the trained Two is worse than the trained One: test accuracy -"
    )


@pytest.mark.parametrize(
    ("on_test", "said"),
    [(0.02, "agree: "), (0.1201, "do not confirm it: "), (0.6, "contradict it: ")],
)
def test_one_seed_each_is_judged_on_the_test_images_too(
    tmp_path: Path, on_test: float, said: str
) -> None:
    runs = []
    for name, errors, tested in (("one", 0.12, 0.12), ("two", 0.02, on_test)):
        run = run_with(tmp_path, name, draw(1, errors, 1 + (name == "two")), seeds=(0,))
        assert run.path is not None
        found = read_predictions(run.path, 0)
        assert found is not None
        RunFolder(run.path).write_predictions(0, found | {"test_accuracy": draw(1, tested, 9)[0]})
        runs.append(run)
    (text,) = [each for each in compare(runs).remarks if each.startswith("Judged on")]
    start = "Judged on the 400 validation images (optimistic if they also chose hyperparameters);"
    assert text.startswith(f"{start} the 400 test images (used for nothing else) {said}test acc")
    assert text.count("over images") == 1


def test_p_values_of_several_networks_are_adjusted(tmp_path: Path) -> None:
    runs = [run_with(tmp_path, f"n{n}", draw(1, 0.05 + n / 50, n), seeds=(0,)) for n in range(3)]
    found = compare(runs)
    alone = [compare([runs[0], each]).verdicts[0].images for each in runs[1:]]
    p_values = [each.pairs.p for each in alone if each and each.pairs]
    assert len(p_values) == 2
    starts = [each.partition(" on the 400")[0] for each in found.remarks if "judged" in each]
    assert starts == ["N1: judged", "N2: judged"]
    shown = [v.images.pairs for v in found.verdicts if v.images and v.images.pairs]
    assert min(each.p for each in shown) == pytest.approx(min(1.0, 2 * min(p_values)))
    assert [each.level for each in shown] == [1 - a for a in holm_levels(p_values, 0.05)]
    for each in shown:
        assert (each.p > 0.05) == (each.interval.low <= 0 <= each.interval.high)


def test_the_spread_and_its_floor_are_footnotes(tmp_path: Path) -> None:
    found, base, arm = compared(tmp_path)
    assert [each.spread for each in found.spreads] == [spread(base), spread(arm)]
    (line,) = [text for text in found.image_notes if text.startswith("Spread over seeds")]
    parts = []
    for name, values in (("One", base), ("Two", arm)):
        std, floor = 100 * spread(values).std, 100 * spread(values).floor
        part = "all of it" if floor >= std else f"of which {floor:.2f}"
        parts.append(f"{name} ±{std:.2f} points, {part}")
    start = "Spread over seeds, with its part from 400 validation images"
    assert line == f"{start}: {'; '.join(parts)}."


def test_json_has_the_evidence(tmp_path: Path) -> None:
    found, _, _ = compared(tmp_path)
    (document,) = json.loads(json_text([found]))["comparisons"]
    images = document["verdicts"][0]["images"]
    assert images["images"] == IMAGES
    assert set(images["interval"]) == {"low", "high"}
    assert [each["label"] for each in document["spreads"]] == ["One", "Two"]
    assert set(document["spreads"][0]["spread"]) == {"std", "floor", "unlimited"}


def test_missing_results_are_said_in_one_line(tmp_path: Path) -> None:
    runs = [run_with(tmp_path, n, draw(4, 0.05, k)) for k, n in enumerate(("one", "two"))]
    (tmp_path / "two" / predictions_file(3)).unlink()
    found = compare(runs)
    assert found.verdicts[0].images is None
    assert found.image_notes[-1] == (
        "Intervals are over seeds alone: Two has no results for each image, as runs of older"
        " versions; without weights, they cannot be computed."
    )
    RunFolder(tmp_path / "two").write_weights(3, {"layer.kernel": np.zeros(2, np.float32)})
    assert compare(runs).image_notes[-1] == (
        "Intervals are over seeds alone: Two has no results for each image, as runs of older"
        " versions; add --predictions to compute them from the weights."
    )


def test_images_never_make_the_interval_narrower(tmp_path: Path) -> None:
    """With few seeds, Satterthwaite's degrees of freedom would."""
    found, base, arm = compared(tmp_path, 2)
    (verdict,) = found.verdicts
    assert verdict.images is not None
    assert verdict.images.interval is not None
    assert verdict.interval is not None
    alone = unpaired(arm, base).interval()
    assert alone.low > verdict.interval.low
    assert verdict.images.interval.low == verdict.interval.low
    assert verdict.images.interval.high == max(alone.high, verdict.interval.high)


def test_damaged_results_are_refused(tmp_path: Path) -> None:
    runs = [run_with(tmp_path, n, draw(4, 0.05, k)) for k, n in enumerate(("one", "two"))]
    (tmp_path / "two" / predictions_file(3)).write_bytes(b"x")
    with pytest.raises(StoreError, match="the header is damaged"):
        compare(runs)


def test_seeds_that_validate_on_images_of_their_own_are_not_crossed(tmp_path: Path) -> None:
    split = RandomSplit(0.1, by_seed=True)
    data = dataclasses.replace(DATA, split=split, overlap=0.1)
    pair = [
        run_with(tmp_path, n, draw(4, 0.05, k), data=data) for k, n in enumerate(("one", "two"))
    ]
    found = compare(pair)
    assert found.verdicts[0].images is None
    assert found.spreads == ()
