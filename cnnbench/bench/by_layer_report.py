"""Times by layer as a terminal table, Markdown and JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from cnnbench.bench.by_layer import ByLayer, LayerTime
from cnnbench.bench.report import markdown_table
from cnnbench.formatting import escape_markdown
from cnnbench.report.table import terminal_grid
from cnnbench.runs import codec

if TYPE_CHECKING:
    from rich.console import Group

HEADER = ("Layer", "Operation", "Fwd ms", "Bwd ms", "Share", "Peak", "FLOP/B", "Bound by")
REST, TOTAL = "other", "step"


def terminal_by_layer(found: ByLayer) -> "Group":
    """A row for each layer, with notes."""
    from rich.console import Group
    from rich.text import Text

    heading = Text(f"{heading_text(found)}\n", style="bold")
    table = terminal_grid(HEADER, rows(found), wide=True)
    table.table.columns[1].justify, table.table.columns[1].no_wrap = "left", False
    return Group(heading, table, Text("\n".join(["", *notes(found), ""]), style="dim"))


def markdown_by_layer(found: ByLayer) -> str:
    """The table in Markdown."""
    cells = [[escape_markdown(cell) for cell in row] for row in rows(found)]
    lines = "".join(f"- {escape_markdown(note)}\n" for note in notes(found))
    table = markdown_table(HEADER, cells)
    return f"### {escape_markdown(heading_text(found))}\n\n{table}\n{lines}"


def json_by_layer(found: Sequence[ByLayer]) -> str:
    """All values, unrounded, with derived values."""
    return codec.encode_document({"networks": [_json(each) for each in found]}).decode()


def _json(found: ByLayer) -> dict[str, object]:
    layers = [
        asdict(layer)
        | {
            "share": found.share(layer.seconds),
            "peak_share": layer.peak_share(found.roofline),
            "flops_per_byte": layer.intensity,
            "bound_by": layer.bound(found.roofline),
        }
        for layer in found.layers
    ]
    return asdict(found) | {"layers": layers}


def heading_text(found: ByLayer) -> str:
    """Network, dataset, batch size and strategy."""
    size = f"{found.batch_size} images"
    return f"{found.title}: a step of {size} of {found.dataset}, engine {found.strategy}"


def rows(found: ByLayer) -> list[list[str]]:
    """Cells of each layer, of the rest and of the step."""
    others = [""] * 3
    forward, backward = (
        sum(getattr(layer, name) for layer in found.layers) for name in ("forward_s", "backward_s")
    )
    total = [TOTAL, "", _ms(forward + found.rest_s), _ms(backward), "100%"]
    rest = [REST, "", _ms(found.rest_s), "", _percent(found.share(found.rest_s)), *others]
    return [*(_cells(found, layer) for layer in found.layers), rest, [*total, *_of_step(found)]]


def _of_step(found: ByLayer) -> list[str]:
    flops = sum(layer.flops for layer in found.layers)
    return [_percent(flops / found.step_s / found.roofline.peak_flops), "", ""]


def _cells(found: ByLayer, layer: LayerTime) -> list[str]:
    computes, roofline = layer.flops > 0, found.roofline
    return [
        layer.name,
        layer.operation,
        _ms(layer.forward_s),
        _ms(layer.backward_s),
        _percent(found.share(layer.seconds)),
        _percent(layer.peak_share(roofline)) if computes and layer.seconds else "",
        f"{layer.intensity:.1f}" if computes else "",
        layer.bound(roofline),
    ]


def notes(found: ByLayer) -> list[str]:
    """Notes below the table."""
    roofline = found.roofline
    profiled = found.profiled_s / found.step_s
    above = any(layer.peak_share(roofline) > 1 for layer in found.layers)
    fewer = " Above 100%: Winograd needs fewer than counted." if above else ""
    return [
        "Fwd, Bwd: milliseconds of the forward and the backward pass in a step as profiled, scaled"
        f" to a step without the profiler (with it, a step takes {profiled:.2f}x as long).",
        f"Operations ran in {found.busy:.0%} of the cores' time; the rest is divided among all"
        " rows in proportion, so that they add up to a step.",
        f"{REST}: loss, optimizer, augmentation and copies.",
        f"Peak: FLOPs of the products, relative to {roofline.peak_flops / 1e9:,.0f} GFLOP/s,"
        f" measured by a large matrix product.{fewer}",
        "FLOP/B: FLOPs per byte of minimum memory traffic. Below"
        f" {roofline.ridge:.0f}, memory ({roofline.bandwidth / 1e9:.1f} GB/s) is the limit,"
        " above it the products.",
        "XLA fuses layers: a pool or an activation may be counted with its neighbor.",
    ]


def _ms(seconds: float) -> str:
    """Milliseconds with three significant digits.

    >>> _ms(0.04567), _ms(0.4567), _ms(0.0)
    ('45.7', '457', '0')
    """
    return f"{seconds * 1e3:#.3g}".removesuffix(".") if seconds else "0"


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.1 or not share else f"{share:.1%}"
