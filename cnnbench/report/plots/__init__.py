"""Plots, diagrams and image grids as PNG, SVG and text."""

import io
from typing import Any


def rendered(figure: Any, title: str, form: str) -> bytes:
    """A figure as ``svg`` or ``png``; the same figure, the same bytes."""
    import matplotlib as mpl

    metadata: dict[str, Any] = {"svg": {"Date": None, "Title": title}}.get(form, {})
    buffer = io.BytesIO()
    # Text stays text, so that it can be found and read aloud.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "cnnbench"}):
        figure.savefig(buffer, format=form, metadata=metadata or {"Software": None})
    return buffer.getvalue()
