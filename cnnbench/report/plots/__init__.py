"""Plots, diagrams and image grids as PNG, SVG and text."""

import io
import warnings
from typing import Any


def rendered(figure: Any, title: str, form: str) -> bytes:
    """A figure as ``svg`` or ``png``; equal figures give equal bytes.

    Args:
      figure: the matplotlib figure.
      title: for the metadata of an SVG file.
      form: ``svg`` or ``png``.
    """
    import matplotlib as mpl

    metadata: dict[str, Any] = {"svg": {"Date": None, "Title": title}}.get(form, {})
    buffer = io.BytesIO()
    # Text stays text, so that it can be searched and read aloud.
    settings: Any = {"svg.fonttype": "none", "svg.hashsalt": "cnnbench"}
    with mpl.rc_context(settings), warnings.catch_warnings():
        # A viewer may have the characters that this machine's font lacks.
        warnings.filterwarnings("ignore", "Glyph .* missing from", UserWarning)
        figure.savefig(buffer, format=form, metadata=metadata or {"Software": None})
    return buffer.getvalue()
