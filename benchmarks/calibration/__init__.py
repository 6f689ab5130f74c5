"""False alarms, coverage and power by simulation: `python -m benchmarks.calibration`.

Writes all tables of docs/explanation/statistics.md, between `<!-- calibration: NAME -->` and
`<!-- end -->`, and the figures that they show. Every rate has Wilson's 95% interval. What is
simulated are the functions that verdicts call.

To add a table, write a function in one of the modules, and register it:

    @section("until-decided")
    def until_decided(simulations: int) -> str:
        rng = generator("until-decided")
        alarms = sum(... for _ in range(simulations))
        return table(["Look", "False alarms"], [["6 seeds", rate(alarms, simulations)]])

Then put its two markers into the page, and run `python -m benchmarks.calibration until-decided`.
A function returns Markdown: a table, or several, or a figure that it saved by `figure`. A test
(tests/benchmarks/test_calibration.py) runs every function with a few simulations.
"""

from benchmarks.calibration import families, images, looks, means, measured, overlap, races
from benchmarks.calibration.tables import SECTIONS

__all__ = ["SECTIONS", "families", "images", "looks", "means", "measured", "overlap", "races"]
