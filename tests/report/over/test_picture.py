"""Pictures of comparisons at several values."""

from cnnbench.comparisons.over.points import OverComparison, compare_over
from cnnbench.comparisons.verdict import Criteria
from cnnbench.report.over.picture import over_picture
from tests.support.samples import make_run

SEEDS = tuple(range(6))


def over(key: str, values: tuple[str, ...], arms: int = 2) -> OverComparison:
    names = ("standard", "wide", "deep")[:arms]
    groups = [
        [
            make_run(name, name.title(), seeds=SEEDS, start=0.9 + 0.01 * i * place, run_id=name)
            for i, name in enumerate(names)
        ]
        for place in range(len(values))
    ]
    return compare_over(key, values, groups, Criteria())


def test_values_far_apart_are_on_a_logarithmic_axis() -> None:
    picture = over_picture(over("train.epochs", ("1", "3", "30")), "svg").decode()
    assert "epochs (logarithmic)" in picture
    assert "(logarithmic)" not in over_picture(over("train.epochs", ("1", "3")), "svg").decode()


def test_a_picture_says_what_the_table_says() -> None:
    found = over("train.epochs", ("1", "3", "30"))
    picture = over_picture(found, "svg").decode()
    assert "Wide vs. Standard over epochs" in picture
    assert "Wide is better than Standard from epochs=3 on" in found.sentences[0]
    assert "Wide is better than Standard from epochs=3 on" in picture
    assert over_picture(found, "png").startswith(b"\x89PNG")


def test_three_networks_on_datasets_have_a_diagram_of_ranks() -> None:
    found = over("dataset.name", ("mnist", "svhn", "cifar10"), arms=3)
    picture = over_picture(found, "svg").decode()
    assert "critical difference 1.91" in picture
    assert found.datasets is not None
    for row in found.datasets.rows:
        assert f"{row.label}  {row.rank:.2f}" in picture
    two = over_picture(over("dataset.name", ("mnist", "svhn")), "svg").decode()
    assert "critical difference" not in two
