"""Tables of docs/reference/cli.md, from the commands that `cnnbench --help` lists."""

import re
from collections.abc import Iterator
from typing import Any

from typer.main import get_command

from cnnbench.cli.app import app
from generators.markdown import code, rows

PROGRAM = "cnnbench"
_FIRST_IDEA = "[Your first idea](../tutorial/first-idea.md)"
_PREDICT = "[Predict and export](../how-to/predict-and-export.md)"
_REPORTS = "[Reports and plots](../how-to/reports-and-plots.md)"
_SWEEPS = "[Sweeps](../how-to/sweeps.md)"
_RESUME = "[Resume and extend a run](../how-to/resume.md)"
_TABLES = "[Tables, CSV and JSON](tables.md)"
SEE_ALSO = {
    "run": (_FIRST_IDEA, _RESUME, "[Use your own model in Python](../how-to/python-model.md)"),
    "show": ("[Experiment files](spec.md)",),
    "new": (_FIRST_IDEA, "[Your own images](../tutorial/own-data.md)"),
    "watch": (_FIRST_IDEA,),
    "schema": (_FIRST_IDEA,),
    "list": (_TABLES,),
    "compare": (
        "[Statistics](../explanation/statistics.md)",
        _TABLES,
        "[Fail CI on a regression](../how-to/ci-gate.md)",
    ),
    "plot": (_REPORTS,),
    "report": (_REPORTS,),
    "sweep": (_SWEEPS,),
    "confirm": (_SWEEPS,),
    "bench": ("[Benchmarks](../../benchmarks/README.md)",),
    "inspect": ("[Inspect a network](../how-to/inspect.md)",),
    "gradcheck": ("[Backpropagation](../explanation/gradient.md)",),
    "latent": ("[Autoencoders](../explanation/autoencoders.md)",),
    "predict": (_PREDICT,),
    "export": (_PREDICT,),
    "merge": ("[Train on all cores and many machines](../how-to/many-machines.md)",),
    "check": (_RESUME,),
    "data": ("[Datasets](../how-to/datasets.md)",),
}
"""Pages with examples of a command, which tests run."""
_MARKUP = re.compile(r"\[/?(?:bold|dim|italic|cyan|green|red|yellow)\b[^]]*\]")


def table(name: str) -> str:
    """Render the list of commands, the global options, or all commands in full."""
    root: Any = get_command(app)
    context = root.make_context(PROGRAM, [], resilient_parsing=True)
    commands = [*_commands(root, context)]
    match name:
        case "commands":
            return rows(
                ("Command", "What it does"), [(_link(path), _first(c)) for path, c, _ in commands]
            )
        case "options":
            return _options(root, context)
        case "reference":
            return "\n\n".join(_section(*each) for each in commands)
        case _:
            raise ValueError(name)


def _commands(group: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    """Path, command and context of each command (without groups), in the order of the help."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        path = f"{context.info_name} {name}"
        inner = command.make_context(path, [], resilient_parsing=True)
        if hasattr(command, "list_commands"):
            yield from _commands(command, inner)
        elif not command.hidden:
            yield path, command, inner


def _link(path: str) -> str:
    return f"[`{path}`](#{path.replace(' ', '-')})"


def _first(command: Any) -> str:
    """The first paragraph of the help, on one line."""
    return " ".join(_help(command.help).partition("\n\n")[0].split())


def _help(text: str | None) -> str:
    """Help without the markup of Click and Rich."""
    return _MARKUP.sub("", (text or "").partition("\f")[0].replace("\b\n", "")).strip()


def _section(path: str, command: Any, context: Any) -> str:
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    arguments = [each for each in command.params if each.param_type_name == "argument"]
    lines = [(code(each.metavar or each.name.upper()), _meaning(each)) for each in arguments]
    parts = [
        f"## `{path}`",
        _help(command.help),
        f"```text\nUsage: {usage}\n```",
        rows(("Argument", "Meaning"), lines) if lines else "",
        _options(command, context),
        _help(command.epilog),
        f"See also: {', '.join(SEE_ALSO[path.split()[1]])}.",
    ]
    return "\n\n".join(part for part in parts if part)


def _options(command: Any, context: Any) -> str:
    """A row for each option shown by `--help`, except `--help`."""
    options = [each for each in command.params if each.param_type_name == "option"]
    shown = [each for each in options if not each.hidden and each.name != "help"]
    lines = [(_names(each, context), _default(each, context), _meaning(each)) for each in shown]
    return rows(("Option", "Default", "Meaning"), lines) if lines else ""


def _names(option: Any, context: Any) -> str:
    """An option as in the help: ``-q, --quiet`` or ``--engine <auto|plain|direct|fast>``."""
    text = option.get_help_record(context)[0].replace(" range>", ">")
    short, _, names = text.rpartition(", -")
    return f"{code(short)}, {code('-' + names)}" if short else code(text)


def _default(option: Any, context: Any) -> str:
    value = option.get_default(context, call=False)
    return "" if value is None or value is False else code(str(getattr(value, "value", value)))


def _meaning(param: Any) -> str:
    """The help of an option, with its environment variable and range."""
    text = _help(param.help)
    if param.min is not None:
        most = "" if param.max is None else f", at most {param.max}"
        text += f" At least {param.min}{most}."
    if param.envvar:
        text += f" Environment variable: {code(param.envvar)}."
    if param.multiple and "repeat" not in text:
        text += " Repeatable."
    return text.replace("|", "&#124;")
