"""``cnnbench gradcheck``: manual backpropagation against autodiff and finite differences."""

from typing import Annotated, Literal

import typer

from cnnbench.cli.options import DataDir, Format, MaybeSpecs, split_words
from cnnbench.cli.terminal import print_document, start_jax, stdout
from cnnbench.errors import UsageError
from cnnbench.gradcheck.worked_example import worked_convolution
from cnnbench.spec.loader import load_experiment

GradcheckFormat = Literal[Format.TABLE, Format.JSON]
WRONG = 3  # exit code


def gradcheck(
    specs: MaybeSpecs = None,
    layer: Annotated[
        str | None,
        typer.Option(help="Check only this layer, array by array.", metavar="NAME"),
    ] = None,
    float64: Annotated[
        bool, typer.Option("--float64", help="Compute in float64 instead of float32.")
    ] = False,
    show: Annotated[
        bool,
        typer.Option(
            "--show", help="Print a small convolution and its gradient, number by number."
        ),
    ] = False,
    format: Annotated[  # noqa: A002
        GradcheckFormat, typer.Option(help="Output format.")
    ] = Format.TABLE,
    data_dir: DataDir = None,
) -> None:
    """Check gradients against jax.grad; exit code 3 if one is wrong."""
    if show:
        if specs or layer or float64 or format is not Format.TABLE:
            raise UsageError("--show: takes no other option or argument; remove them.")

        print_document(worked_convolution())
        return
    paths, overrides = split_words(specs or ())

    loaded = [load_experiment(path, overrides, data_dir=data_dir) for path in paths]
    start_jax("cpu")
    from cnnbench.gradcheck.check import check_gradients, require_layer
    from cnnbench.gradcheck.report import gradcheck_json, gradcheck_table

    checks = []
    for experiment in loaded:
        require_layer(experiment, layer)
    for experiment in loaded:
        checks.append(check_gradients(experiment, "float64" if float64 else "float32", layer))
        if format is Format.TABLE:
            stdout().print(gradcheck_table(checks[-1], close=layer is not None))
    if format is Format.JSON:
        print_document(gradcheck_json(checks), "json")
    if not all(check.right for check in checks):
        raise typer.Exit(WRONG)
