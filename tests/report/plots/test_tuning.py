"""The picture of a tuning, in the formats of all pictures."""

import pytest

from cnnbench.report.html import tuning_plates
from cnnbench.report.plots.tuning import tuning_picture
from cnnbench.report.run_artifacts import RunArtifacts
from tests.support.samples import make_run
from tests.support.tunings import NAN, make_arm, make_tuning


def test_it_names_keys_values_and_experiments() -> None:
    svg = tuning_picture(make_tuning(), "svg").decode()
    for text in ("learning_rate (cross: diverged)", "x0.3", "Standard CNN", "Modified CNN"):
        assert f">{text}<" in svg, text
    assert ">Expected best of k trials<" in svg
    assert ">validation accuracy (%), higher is better<" in svg


@pytest.mark.parametrize("form", ["svg", "png"])
def test_equal_tunings_have_equal_pictures(form: str) -> None:
    assert tuning_picture(make_tuning(), form) == tuning_picture(make_tuning(), form)


def test_a_trial_of_one_seed_and_an_experiment_without_a_best() -> None:
    arms = make_arm("A", [(0.9,), (0.8,)]), make_arm("B", [(NAN,), (NAN,)])
    assert ">B<" in tuning_picture(make_tuning(*arms), "svg").decode()


def test_a_report_shows_it_once_for_all_runs_that_it_chose() -> None:
    content = tuning_picture(make_tuning(), "png")
    runs = [RunArtifacts(make_run(), label, tuning=content) for label in ("A", "B")]
    (plate,) = tuning_plates([*runs, RunArtifacts(make_run(), "C")])
    assert plate.caption == "Trials of the tuning before A and B, and the expected best of k."
