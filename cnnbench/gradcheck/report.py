"""Gradient checks as terminal tables and as JSON."""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnbench.formatting import MISSING
from cnnbench.gradcheck.check import Agreement, GradCheck, LayerCheck, Quantity
from cnnbench.layers.base import shape_text
from cnnbench.report.table import WrappedTable

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def gradcheck_table(check: GradCheck, *, close: bool = False) -> "Group":
    """Table of the errors of each layer, with notes and the verdict.

    Args:
      check: the result of a check.
      close: also list each array of the layers, and its entries with the largest errors.
    """
    from rich.console import Group
    from rich.text import Text

    title = f"{check.title}: backpropagation by hand ({check.dtype}, {check.num_images} images)"
    parts: list[Any] = [Text(title, style="table.title"), "", WrappedTable(_layers(check)), ""]
    if close:
        parts += [part for layer in check.layers for part in (WrappedTable(_arrays(layer)), "")]
        lines = [line for layer in check.layers for line in (*_farthest(layer), *_shares(layer))]
        parts.append(Text("\n".join(["Largest errors:", *lines, ""])))
    notes = "\n".join(_notes(check))
    return Group(*parts, Text(f"{notes}\n", style="dim"), Text(_verdict(check)))


def _layers(check: GradCheck) -> "Table":
    table, kinks = _table("Layer", "Operation"), any(layer.skipped for layer in check.layers)
    for header in ("vs. jax.grad", "vs. differences", "Entries", *["Kinks"] * kinks):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("Verdict", no_wrap=True)
    for layer in check.layers:
        table.add_row(
            layer.node.name,
            layer.node.op.summary(),
            _error(layer.to_autodiff),
            _error(layer.to_differences),
            str(layer.num_compared),
            *[str(layer.skipped or "")] * kinks,
            layer.verdict.value,
            style="" if layer.right else "bold",
        )
    return table


def _arrays(layer: LayerCheck) -> "Table":
    table = _table(layer.node.name, "Shape")
    for header in ("Largest", "vs. jax.grad", "vs. differences", "Entries", "Kinks"):
        table.add_column(header, justify="right", no_wrap=True)
    for quantity in layer.quantities:
        table.add_row(
            quantity.name,
            shape_text(quantity.by_hand.shape),
            f"{np.abs(quantity.by_hand).max():.3g}",
            _error(quantity.to_autodiff),
            _error(quantity.to_differences),
            f"{quantity.slopes.entries.size} of {quantity.by_hand.size:,}",
            str(quantity.slopes.skipped or ""),
        )
    return table


def _table(*headers: str) -> "Table":
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, show_edge=False)
    table.padding, table.pad_edge, table.collapse_padding = (0, 1), False, True
    for header in headers:
        table.add_column(header)
    return table


def _farthest(layer: LayerCheck) -> Iterator[str]:
    """The entries with the largest errors, with their values."""
    for quantity in layer.quantities:
        by_hand, entries = quantity.by_hand, quantity.slopes.entries
        at = int(np.argmax(np.abs(by_hand - quantity.by_autodiff)))
        yield _values(quantity, at, "jax.grad", float(quantity.by_autodiff.flat[at]))
        if entries.size:
            worst = int(np.argmax(np.abs(by_hand.flat[entries] - quantity.slopes.values)))
            value = float(quantity.slopes.values[worst])
            yield _values(quantity, int(entries[worst]), "differences", value)


def _values(quantity: Quantity, at: int, name: str, other: float) -> str:
    place = ", ".join(str(i) for i in np.unravel_index(at, quantity.by_hand.shape))
    value = quantity.by_hand.flat[at]
    return f"  {quantity.name}[{place}]: by hand {value:.9g}, {name} {other:.9g}"


def _shares(layer: LayerCheck) -> Iterator[str]:
    if layer.shares:
        parts = ", ".join(f"{user} {size:.3g}" for user, size in layer.shares.items())
        yield f"The kernel is shared: its gradient is the sum over these layers; norms: {parts}."


def _notes(check: GradCheck) -> Iterator[str]:
    gap = abs(check.cost - check.cost_by_jax)
    yield f"Cost ({check.loss}): {check.cost:.6g}; JAX's differs by {gap:.1e}."
    yield (
        "Errors are relative to the layer's largest derivative. Tolerances:"
        f" {check.tolerances.autodiff:.0e} vs. jax.grad,"
        f" {check.tolerances.differences:.0e} vs. central"
        " differences, which are always in float64."
    )
    yield (
        "Entries: number of derivatives compared with central differences; all derivatives are"
        " compared with jax.grad."
    )
    if any(layer.skipped for layer in check.layers):
        yield (
            "Kinks: entries without a central difference, because every step crosses a kink or"
            " is too small for float64."
        )
    if any(layer.to_differences is None for layer in check.layers):
        yield f"{MISSING}: no central difference could be computed; only jax.grad was compared."
    if check.doubtful:
        hint = "use --float64" if check.dtype == "float32" else "try another seed, e.g. seeds=[1]"
        units = f"{check.doubtful} unit{'s' * (check.doubtful > 1)}"
        yield (
            f"Rounding moves {units} across a kink, so errors may be large;"
            f" {hint} for a clear result."
        )


def _verdict(check: GradCheck) -> str:
    found = {
        verdict: ", ".join(each.node.name for each in check.layers if each.verdict is verdict)
        for verdict in Agreement
    }
    if wrong := found[Agreement.WRONG]:
        return f"The gradients disagree in {wrong}."
    short = found[Agreement.IMPRECISE]
    if short and check.dtype == "float64":
        return (
            f"The gradients agree within rounding error; float64 is not precise enough for {short}."
        )
    if short:
        lacks = "too small a range" if check.overflows else "too little precision"
        return (
            f"The gradients agree in float64; float32 has {lacks} for {short}."
            " Run with --float64 to confirm."
        )
    return "All gradients agree." if len(check.layers) > 1 else "The gradients agree."


def _error(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1e}"


def gradcheck_json(checks: list[GradCheck]) -> str:
    """All results, unrounded, as JSON."""
    return json.dumps([_plain(check) for check in checks], indent=2, allow_nan=True) + "\n"


def _plain(check: GradCheck) -> dict[str, Any]:
    return {
        "title": check.title,
        "dtype": check.dtype,
        "images": check.num_images,
        "loss": check.loss,
        "cost": check.cost,
        "cost_by_jax": check.cost_by_jax,
        "bars": {
            "autodiff": check.tolerances.autodiff,
            "differences": check.tolerances.differences,
        },
        "units_near_kinks": check.doubtful,
        "right": check.right,
        "layers": [_plain_layer(layer) for layer in check.layers],
    }


def _plain_layer(layer: LayerCheck) -> dict[str, Any]:
    return {
        "layer": layer.node.name,
        "op": layer.node.op.op,
        "right": layer.verdict is not Agreement.WRONG,
        "verdict": layer.verdict.value,
        "gradients": [
            {
                "of": q.name,
                "shape": list(q.by_hand.shape),
                "scale": q.scale,
                "to_autodiff": q.to_autodiff,
                "to_differences": q.to_differences,
                "entries": int(q.slopes.entries.size),
                "skipped": q.slopes.skipped,
            }
            for q in layer.quantities
        ],
        "shares": dict(layer.shares),
    }
