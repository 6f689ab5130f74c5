"""Comparisons for programs: CSV and JSON with the raw, unrounded values."""

import csv
import io
from collections.abc import Sequence
from typing import Any

from cnnbench.compare.comparison import Comparison, CostRow, Row
from cnnbench.compare.statistics import Estimate, mean_interval
from cnnbench.compare.verdict_text import fields
from cnnbench.formatting import csv_cell
from cnnbench.runs import codec

_ESTIMATES = ("value", "train_s", "test", "code")


def csv_text(comparisons: Sequence[Comparison]) -> str:
    """One header and one line for each row of each comparison; an unknown value is empty."""
    rows = [
        _csv_row(comparison, row) | _csv_cost(cost)
        for comparison in comparisons
        for cost in comparison.costs
        for row in comparison.rows
        if row.label == cost.label
    ]
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: csv_cell(value) for key, value in row.items()} for row in rows)
    return text.getvalue()


def json_text(comparisons: Sequence[Comparison]) -> str:
    """Everything in the comparisons, with the raw value of each seed."""
    return codec.encode_document({"comparisons": tuple(map(_json, comparisons))}).decode()


def _row_fields(row: Row) -> dict[str, Any]:
    return {
        "name": row.run.name,
        "title": row.run.title,
        "run_id": row.run.run_id,
        "stand_in_for": row.run.dataset.stand_in_for,
        "device": row.run.environment.device_model,
        "seeds": row.run.seeds,
        "epoch": row.epoch,
        "value": row.value,
        "train_s": row.train_s,
        "num_params": row.num_params,
        "images_per_s": row.images_per_s,
        "test": row.test,
        "code": row.code,
    }


def _csv_row(comparison: Comparison, row: Row) -> dict[str, object]:
    cells: dict[str, object] = {
        "task": comparison.task,
        "metric": comparison.metric,
        "images": comparison.dataset.judged_on,
        "dataset": comparison.dataset.name,
        "dataset_digest": comparison.dataset.digest,
        "device_kind": comparison.device_kind,
    }
    for name, value in _row_fields(row).items():
        if name in _ESTIMATES:
            cells |= {f"{name}_mean": value and value.mean, f"{name}_std": value and value.std}
        elif name == "seeds":
            cells["num_seeds"] = len(value)
        else:
            cells[name] = value
    return cells


def _csv_cost(row: CostRow) -> dict[str, object]:
    cost, target = row.cost, row.target
    return {
        "forward_flops": cost and cost.forward_flops,
        "backward_flops": cost and cost.backward_flops,
        "memory_bytes": cost and cost.memory_bytes,
        "latency_p50_s": cost and cost.latency_p50_s,
        "latency_p99_s": cost and cost.latency_p99_s,
        "product_share": row.product_share,
        "target": target and target.target,
        "target_s": target and target.median_s,
        "target_reached": target and target.reached,
    }


def _json(comparison: Comparison) -> dict[str, object]:
    return {
        "task": comparison.task,
        "metric": comparison.metric,
        "images": comparison.dataset.judged_on,
        "direction": comparison.direction,
        "dataset": comparison.dataset,
        "device_kind": comparison.device_kind,
        "devices": comparison.devices,
        "rows": tuple(_json_row(row) for row in comparison.rows),
        "verdicts": tuple(fields(verdict) for verdict in comparison.verdicts),
        "code_verdicts": tuple(fields(verdict) for verdict in comparison.code_verdicts),
        "costs": tuple(map(_json_cost, comparison.costs)),
        "warnings": comparison.warnings,
        "remarks": comparison.remarks,
        "contradictions": comparison.contradictions,
    }


def _json_cost(row: CostRow) -> dict[str, object]:
    return {
        "label": row.label,
        "run_id": row.run.run_id,
        "cost": row.cost,
        "product_share": row.product_share,
        "target": row.target,
    }


def _json_row(row: Row) -> dict[str, object]:
    fields = _row_fields(row)
    return fields | {name: _json_estimate(fields[name]) for name in _ESTIMATES}


def _json_estimate(estimate: Estimate | None) -> dict[str, object] | None:
    if estimate is None:
        return None
    return {
        "values": estimate.values,
        "mean": estimate.mean,
        "std": estimate.std,
        "interval_95": mean_interval(estimate.values, 0.95),
    }
