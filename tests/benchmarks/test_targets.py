"""Targets of `make bench`: checks, and their table."""

import math

import pytest

from benchmarks.targets import Check, Target, checks_rows


class TestTargets:
    @pytest.mark.parametrize(
        ("target", "value", "holds"),
        [
            (Target("speed", 2.0, "x", at_least=True), 2.0, True),
            (Target("speed", 2.0, "x", at_least=True), 1.99, False),
            (Target("memory", 1.5), 1.5, True),
            (Target("memory", 1.5), 1.51, False),
            (Target("memory", 1.5), math.nan, False),
            (Target("memory", 1.5), None, None),
        ],
    )
    def test_targets_are_met_or_missed(
        self, target: Target, value: float | None, holds: bool | None
    ) -> None:
        assert Check(target, value).holds is holds

    def test_the_table_of_targets(self) -> None:
        speed, memory = Target("speed", 2.0, "x", at_least=True), Target("memory", 1.5, " GiB")
        checks = [Check(speed, 2.1234), Check(memory, 1.75, "of MNIST"), Check(memory, None)]
        assert checks_rows(checks) == [
            ["speed", ">= 2x", "2.12x", "met", ""],
            ["memory", "<= 1.5 GiB", "1.75 GiB", "MISSED", "of MNIST"],
            ["memory", "<= 1.5 GiB", "", "not measured", ""],
        ]
