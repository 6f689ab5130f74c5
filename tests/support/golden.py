"""Approved output, in tests/golden.

After a deliberate change, `UPDATE_GOLDEN=1 make test` writes the actual output; review the diff.
"""

import os

from tests.support.paths import GOLDEN


def approved(name: str, got: str) -> str:
    """The approved text of a file; with UPDATE_GOLDEN, write and return the actual text."""
    path = GOLDEN / name
    if "UPDATE_GOLDEN" in os.environ:
        path.write_text(got, encoding="utf-8")
    return path.read_text(encoding="utf-8")
