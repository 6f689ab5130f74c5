"""Typer's errors on values of options, in the words of this project's other messages."""

from typing import Any

import typer

from cnnbench.errors import did_you_mean, or_list, quoted

_KINDS = {"int": "an integer", "float": "a number"}
_BOUNDS = {
    "greater_than_equal": ("small", "ge", "{:g} or more"),
    "greater_than": ("small", "gt", "more than {:g}"),
    "less_than_equal": ("large", "le", "{:g} or less"),
    "less_than": ("large", "lt", "less than {:g}"),
}


def bad_value(error: typer.BadParameter) -> str | None:
    """Words an error that pydantic raised on the value of an option or argument.

    Args:
      error: Typer's error.

    Returns:
      A sentence with the option, the value and the remedy; None if it is another error.
    """
    errors = getattr(error.__cause__, "errors", None)
    if errors is None or error.param is None:
        return None
    detail = errors()[0]
    problem, remedy = _worded(detail)
    return f"{_place(error)}: {problem}; {remedy}."


def _place(error: typer.BadParameter) -> str:
    """Names the option, or the environment variable that set it."""
    param, context = error.param, error.ctx
    assert param is not None
    source = context.get_parameter_source(param.name) if context and param.name else None
    if getattr(source, "name", "") == "ENVIRONMENT":
        return str(getattr(param, "envvar", ""))
    names = [name for name in param.opts if name.startswith("--")]
    return names[0] if names else str(param.name)


def _worded(detail: Any) -> tuple[str, str]:
    """Returns what is wrong with a value, and what to write instead."""
    kind, value = detail["type"], quoted(str(detail["input"]))
    if kind in _BOUNDS:
        size, key, phrase = _BOUNDS[kind]
        return f"{value} is too {size}", f"write {phrase.format(detail['ctx'][key])}"
    name = kind.partition("_")[0]
    if name in _KINDS:
        return f"{value} is not {_KINDS[name]}", "write one"
    message = detail["msg"].removeprefix("Value error, ").rstrip(".")
    _, found, listed = message.partition(" is not one of ")
    if not found:
        return message, "write another value"
    choices = [choice.strip().strip("'") for choice in listed.split(",")]
    hint = did_you_mean(str(detail["input"]), choices)
    return f"{value} is not a valid choice{hint}", f"write {or_list(choices)}"
