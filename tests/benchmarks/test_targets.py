"""Targets of `make bench`: checks, and their table."""

import math

import pytest

from benchmarks.targets import Bar, Check, checks_rows


class TestBars:
    @pytest.mark.parametrize(
        ("bar", "value", "holds"),
        [
            (Bar("speed", 2.0, "x", at_least=True), 2.0, True),
            (Bar("speed", 2.0, "x", at_least=True), 1.99, False),
            (Bar("memory", 1.5), 1.5, True),
            (Bar("memory", 1.5), 1.51, False),
            (Bar("memory", 1.5), math.nan, False),
            (Bar("memory", 1.5), None, None),
        ],
    )
    def test_targets_are_met_or_missed(
        self, bar: Bar, value: float | None, holds: bool | None
    ) -> None:
        assert Check(bar, value).holds is holds

    def test_the_table_of_targets(self) -> None:
        speed, memory = Bar("speed", 2.0, "x", at_least=True), Bar("memory", 1.5, " GiB")
        checks = [Check(speed, 2.1234), Check(memory, 1.75, "of MNIST"), Check(memory, None)]
        assert checks_rows(checks) == [
            ["speed", ">= 2x", "2.12x", "met", ""],
            ["memory", "<= 1.5 GiB", "1.75 GiB", "MISSED", "of MNIST"],
            ["memory", "<= 1.5 GiB", "", "not measured", ""],
        ]
