"""The command line's parser, with suggestions for commands and options that there are not."""

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from cnnbench.cli.terminal import tell
from cnnbench.errors import nearest, or_list, quoted
from cnnbench.spec.vocabulary import COMMAND

_F = TypeVar("_F", bound=Callable[..., Any])
_UsageError: Any = typer.BadParameter.__bases__[0]  # click's, or that of the click inside of typer


class Command(TyperCommand):
    """A command whose unknown options are answered with a near one, or with an override."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments, as the base class does."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            if hasattr(error, "possibilities"):  # there is no such option
                self._suggest(error)
            raise

    def _suggest(self, error: Any) -> None:
        options = [name for param in self.params for name in param.opts if name.startswith("--")]
        word = error.option_name.lstrip("-").replace("-", "_")
        near = nearest(word, [name[2:] for name in options])
        error.possibilities = [f"--{near}"] if near else []
        takes_overrides = any(param.name == "specs" for param in self.params)
        if not near and takes_overrides:
            error.message += _override(word)


def _override(word: str) -> str:
    """The override that an unknown option means, as a clause; empty where there is none."""
    from cnnbench.spec.pydantic_messages import key_elsewhere

    if (found := key_elsewhere(word, ())) is None:
        return ""
    path, owners = found
    note = f" (of {or_list(owners)} only)" if owners else ""
    return f"; write {path}=VALUE without dashes{note}"


class Group(TyperGroup):
    """Commands, of which one is suggested where there is none of a name."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command, as the base class does."""
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            names = self.list_commands(ctx)
            message = f"there is no command {quoted(args[0])}{COMMAND.hint(args[0], names)}"
            tell(f"{message}; write {or_list(names)}.")
            raise typer.Exit(2)
        return super().resolve_command(ctx, args)


class App(typer.Typer):
    """Typer with these."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(cls=Group, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[_F], _F]:
        """Registers a command, as the base class does."""
        return super().command(name, cls=Command, **settings)
