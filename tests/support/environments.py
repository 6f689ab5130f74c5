"""Environments for commands and child processes of tests."""

import io
import os
import sys
from collections.abc import Sequence

import pytest

from cnnbench.cli import app


def without(*beginnings: str) -> dict[str, str]:
    """This process's environment without the variables with these prefixes."""
    return {name: value for name, value in os.environ.items() if not name.startswith(beginnings)}


def said(
    patch: pytest.MonkeyPatch, words: Sequence[str], encoding: str, errors: str = "strict"
) -> tuple[int, str, str]:
    """Run the command with standard streams in an encoding.

    Returns:
      The exit code, standard output and standard error.
    """
    streams = [io.TextIOWrapper(io.BytesIO(), encoding, errors) for _ in range(2)]
    with patch.context() as here:
        here.setattr(sys, "argv", ["cnnbench", *words])
        here.setattr(sys, "stdout", streams[0])
        here.setattr(sys, "stderr", streams[1])
        try:
            app.main()
        except SystemExit as end:
            code = end.code
    assert isinstance(code, int)
    for stream in streams:
        stream.seek(0)
    return code, streams[0].read(), streams[1].read()
