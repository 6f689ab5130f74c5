"""The picture of a tuning, in the formats of all pictures."""

import pytest

from cnnbench.report.plots.tuning import tuning_picture
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
