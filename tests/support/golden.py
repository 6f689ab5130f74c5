"""Approved output, in tests/golden.

After a deliberate change, `UPDATE_GOLDEN=1 make test` writes what the tests got; review the diff.
"""

import os

from tests.support.paths import GOLDEN


def approved(name: str, got: str) -> str:
    """The approved text of a file, or what a test got, where the files are being updated."""
    path = GOLDEN / name
    if "UPDATE_GOLDEN" in os.environ:
        path.write_text(got, encoding="utf-8")
    return path.read_text(encoding="utf-8")
