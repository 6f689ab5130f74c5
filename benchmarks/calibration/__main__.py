"""Writes the tables of docs/explanation/statistics.md."""

import argparse
from pathlib import Path

from benchmarks.calibration import SECTIONS
from benchmarks.calibration.measured import write_measured
from benchmarks.calibration.tables import PAGE, SIMULATIONS, rendered


def main() -> None:
    """Writes the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="tables; default: all; with --write, run folders")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write values of seeds instead")
    parser.add_argument("--simulations", type=int, default=SIMULATIONS, metavar="N")
    given = parser.parse_args()
    if given.write:
        write_measured(given.write, [Path(name) for name in given.names])
        return
    if unknown := set(given.names) - set(SECTIONS):
        parser.error(f"no table named {', '.join(sorted(unknown))}; known: {', '.join(SECTIONS)}")
    for name in given.names or list(SECTIONS):  # written one by one: all of them take minutes
        text = SECTIONS[name](given.simulations)
        PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8"), name, text), encoding="utf-8")


if __name__ == "__main__":
    main()
