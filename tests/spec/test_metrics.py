"""The table of metrics: completeness, and known and unknown names."""

from typing import get_args

import pytest

from cnnbench.spec.metrics import (
    METRICS,
    MetricName,
    heading,
    higher_is_better,
    is_fraction,
    metric_text,
    words,
)


def test_the_table_has_every_metric_that_a_file_can_ask_for() -> None:
    assert {name for name, metric in METRICS.items() if metric.tasks} == set(get_args(MetricName))
    assert {name for name, metric in METRICS.items() if not metric.tasks} == {
        "loss",
        "code_accuracy",
    }


@pytest.mark.parametrize(
    ("name", "title", "fraction", "higher"),
    [
        ("accuracy", "Accuracy", True, True),
        ("test_accuracy", "Test accuracy", True, True),
        ("validation_top5_accuracy", "Validation top5 accuracy", True, True),
        ("code_accuracy", "Code accuracy", True, True),
        ("training_loss", "Training loss", False, False),
        ("test_psnr", "Test PSNR", False, True),
        ("test_brier_score", "Test Brier score", False, False),
        ("test_balanced_accuracy", "Test balanced accuracy", True, True),
        ("validation_macro_f1", "Validation macro F1", True, True),
        ("test_ece", "Test ECE", True, False),
        ("ssim", "SSIM", False, True),
        ("test_kl", "Test KL divergence", False, False),
        ("validation_mse", "Validation MSE", False, False),
    ],
)
def test_a_name_may_say_which_images_it_was_taken_on(
    name: str, title: str, fraction: bool, higher: bool
) -> None:
    assert heading(name) == title
    assert is_fraction(name) is fraction
    assert higher_is_better(name) is higher


@pytest.mark.parametrize("name", ["word_error", "test_word_error", "test", "test_", ""])
def test_a_metric_of_another_version_is_a_plain_number(name: str) -> None:
    assert words(name) == name.replace("_", " ")
    assert not is_fraction(name)
    assert metric_text(name, 0.25) == "0.2500"
