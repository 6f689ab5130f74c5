"""What verdicts at several values say together."""

import dataclasses

import pytest

from cnnbench.comparisons.comparison import compare
from cnnbench.comparisons.over.points import over_sentence
from cnnbench.comparisons.verdict import Finding, Verdict
from tests.support.samples import make_run

FINDINGS = {
    "+": Finding.BETTER,
    "-": Finding.WORSE,
    "~": Finding.NOISE,
    "0": Finding.NONE,
    "?": Finding.FEW,
    "x": Finding.DIVERGED,
}


@pytest.fixture(scope="module")
def verdict() -> Verdict:
    return compare([make_run(), make_run("b", "B", run_id="b")]).verdicts[0]


@pytest.mark.parametrize(
    ("signs", "sentence"),
    [
        ("+++", "B is better than A at every epochs (1, 2 and 4,000)."),
        ("000", "B and A: at every epochs (1, 2 and 4,000), no difference detected."),
        ("00+", "B is better than A at epochs=4,000; up to 2, no difference detected."),
        ("0++", "B is better than A from epochs=2 on; at 1, no difference detected."),
        ("--0", "B is worse than A up to epochs=2; at 4,000, no difference detected."),
        ("+0+", "B is better than A at epochs=1 and 4,000; at 2, no difference detected."),
        (
            "-0+",
            "The sign changes: B is better than A at epochs=4,000 and worse at 1; at 2, no"
            " difference detected.",
        ),
        (
            "?~x",
            "B and A: at epochs=2, within the noise threshold; at 1, too few seeds: run both with"
            " --seeds FEWEST; at 4,000, training diverged.",
        ),
    ],
)
def test_sentences(verdict: Verdict, signs: str, sentence: str) -> None:
    verdicts = [
        dataclasses.replace(verdict, label="B", baseline="A", finding=FINDINGS[sign])
        for sign in signs
    ]
    expected = sentence.replace("FEWEST", str(verdict.fewest))
    assert over_sentence("epochs", ["1", "2", "4000"], verdicts) == expected


def test_values_that_are_no_numbers_have_no_order(verdict: Verdict) -> None:
    verdicts = [
        dataclasses.replace(verdict, label="B", baseline="A", finding=FINDINGS[sign])
        for sign in "0++"
    ]
    assert over_sentence("dataset", ["mnist", "svhn", "cifar10"], verdicts) == (
        "B is better than A at dataset=svhn and cifar10; at mnist, no difference detected."
    )
