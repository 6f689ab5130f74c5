"""Typer's errors on values of options, in the words of this project's other messages."""

import re
from collections.abc import Sequence
from typing import Any

import typer

from cnnbench.errors import did_you_mean, or_list, quoted

_KINDS = {"int": ("an integer", "such as 5"), "float": ("a number", "such as 0.1")}
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


def missing_value(error: Any, params: Sequence[Any]) -> str | None:
    """Words an error on an argument, a required option, or the value of an option that is missing.

    Args:
      error: Typer's error.
      params: of the command.

    Returns:
      A sentence with the name and what to write; None if it is another error.
    """
    match type(error).__name__:
        case "BadOptionUsage" if "requires" in error.message:
            param = next(param for param in params if error.option_name in param.opts)
            value = param.metavar or str(param.name).upper()
            return f"{error.option_name}: the value is missing; write {error.option_name} {value}."
        case "MissingParameter" if error.param is not None:
            return _missing_parameter(error)
    return None


def unexpected_word(error: Any) -> str | None:
    """Words an error on the value of a flag, or on arguments that a command does not take.

    Args:
      error: Typer's error.

    Returns:
      A sentence with the word and the remedy; None if it is another error.
    """
    if type(error).__name__ == "BadOptionUsage" and "does not take a value" in error.message:
        return f"{error.option_name}: does not take a value; remove it."
    if found := re.match(r"Got unexpected extra argument\S* \((.*)\)$", error.message, re.DOTALL):
        path = error.ctx.command_path
        return f"{path}: unexpected argument {quoted(found[1])}; see `{path} --help`."
    return None


def _missing_parameter(error: Any) -> str:
    param, context = error.param, error.ctx
    path = context.command_path
    if param.param_type_name == "option":
        listed = (param.get_missing_message(ctx=context) or "").splitlines()[1:]
        choices = [choice.strip(", \t") for choice in listed]
        remedy = f"write {or_list(choices)}." if choices else "add it."
        return f"{path}: {_place(error)} is missing; {remedy}"
    pieces = [word for word in context.command.collect_usage_pieces(context) if word[0] != "["]
    name = str(param.metavar or param.name).partition("|")[0]
    return f"{path}: {name} is missing; write: {' '.join([path, *pieces])}"


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
        noun, example = _KINDS[name]
        return f"{value} is not {noun}", f"write {noun} {example}"
    message = detail["msg"].removeprefix("Value error, ").rstrip(".")
    _, found, listed = message.partition(" is not one of ")
    if not found:
        return message, "write another value"
    choices = [choice.strip().strip("'") for choice in listed.split(",")]
    hint = did_you_mean(str(detail["input"]), choices)
    return f"{value} is not a valid choice{hint}", f"write {or_list(choices)}"
