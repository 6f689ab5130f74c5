"""Folders of the repository used by tests."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
EXPERIMENTS = ROOT / "experiments"
GOLDEN = ROOT / "tests" / "golden"
