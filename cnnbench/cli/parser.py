"""Parser of the command line: commands loaded on demand, and suggestions for unknown words."""

from collections.abc import Callable, Mapping
from copy import copy
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command, get_group

from cnnbench.cli.bad_values import bad_value, missing_value, unexpected_word
from cnnbench.cli.terminal import reports_errors, tell
from cnnbench.errors import KnownNames, or_list, quoted

_F = TypeVar("_F", bound=Callable[..., Any])
_UsageError: Any = typer.BadParameter.__bases__[0]  # that of Click, or of Typer's copy of it

# Commands, and what other programs call them.
COMMAND = KnownNames(
    {
        "run": ("train", "fit", "start", "exec", "execute", "resume"),
        "predict": ("infer", "inference", "test"),
        "list": ("ls", "runs", "history"),
        "compare": ("diff", "vs"),
        "show": ("summary", "describe", "info", "print"),
        "merge": ("join", "combine", "unite", "pool"),
        "check": ("verify", "fsck"),
        "new": ("init", "create"),
        "bench": ("benchmark",),
        "gradcheck": ("grad_check", "check_gradients", "gradients"),
        "inspect": ("visualize",),
        "export": ("convert",),
    }
)

# Long options, without dashes, and what other programs call them.
OPTION = KnownNames(
    {
        "format": ("json", "csv", "markdown", "html", "latex", "output", "out"),
        "results-dir": ("output", "output_dir", "out", "out_dir", "results", "save_dir", "log_dir"),
        "data-dir": ("data", "data_path", "data_root", "root"),
        "output": ("out", "output_file", "out_file", "save"),
        "device": ("cpu", "gpu", "cuda", "tpu", "accelerator"),
        "dry-run": ("check", "validate"),
        "seeds": ("num_seeds", "random_seed"),
        "epochs": ("num_epochs", "n_epochs", "max_epochs"),
        "workers": ("num_workers", "n_jobs"),
    }
)


class Command(TyperCommand):
    """A command whose errors are one line each, with a similar option or an override."""

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        for param in self.params:
            _show_plainly(param)

    def get_help_option(self, ctx: Any) -> Any:
        """Returns `--help`, as the base class does."""
        if (option := super().get_help_option(ctx)) is not None:
            _show_plainly(option)
        return option

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the arguments, as the base class does."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            text = _unknown_option(ctx, error) or missing_value(error, self.params)
            if text := text or bad_value(error) or unexpected_word(error):
                tell(text)
                raise typer.Exit(2) from None
            raise


def _show_plainly(param: Any) -> None:
    """Hides what Typer adds to the help: types of flags and arguments, and braces in the usage."""
    if param.param_type_name == "argument":
        param.display_type_rich = lambda **_: None
        if param.required:
            more = "" if param.nargs == 1 else "..."
            param.get_usage_pieces = lambda _: [f"{param.display_name_raw}{more}"]
    elif param.is_flag and param.metavar is None:
        param.metavar = ""


def _unknown_option(ctx: Any, error: Any) -> str:
    """Words an error on an option that a command lacks; empty if it is another error."""
    if not hasattr(error, "possibilities"):
        return ""
    name, params = error.option_name, [p for p in ctx.command.get_params(ctx) if p.name != "help"]
    options = [option for param in params for option in param.opts if option.startswith("--")]
    word = name.lstrip("-").replace("-", "_")
    near = OPTION.match(word, [option[2:] for option in options])
    hint = f" (did you mean '--{near}'?)" if near else ""
    remedy = "" if near else _where_else(ctx, name, word)
    return f"no such option: {name}{hint}; {remedy or f'see `{ctx.command_path} --help`'}."


def _where_else(ctx: Any, option: str, word: str) -> str:
    """Returns the override or the commands that an unknown option means; empty if none."""
    takes_overrides = any(param.name == "specs" for param in ctx.command.params)
    return (_override(word) if takes_overrides else "") or _of_another_command(ctx, option)


def _of_another_command(ctx: Any, option: str) -> str:
    """Returns a clause on the commands that have an option; empty if there are none."""
    group, above = ctx.parent and ctx.parent.command, ctx.parent
    names = group.list_commands(above) if isinstance(group, LazyGroup) else ()
    owners = [name for name in names if _has(group.get_command(above, name), option)][:3]
    return f"{or_list([f'`cnnbench {name}`' for name in owners])} has it" if owners else ""


def _has(command: Any, option: str) -> bool:
    return any(option in param.opts for param in command.params)


def _override(word: str) -> str:
    """Returns a clause on the override that an unknown option means; empty if there is none."""
    from cnnbench.spec.pydantic_messages import key_elsewhere

    if (found := key_elsewhere(word, ())) is None:
        return ""
    path, owners = found
    note = f" (of {or_list(owners)} only)" if owners else ""
    return f"write {path}=VALUE without dashes{note}"


class Group(TyperGroup):
    """A group of commands that suggests a similar one for an unknown command."""

    def get_params(self, ctx: Any) -> list[Any]:
        """Lists the options, as the base class does; Typer adds those for completion late."""
        found = super().get_params(ctx)
        for param in found:
            _show_plainly(param)
        return found

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the options before the command, as the base class does."""
        try:
            return super().parse_args(ctx, args)
        except _UsageError as error:
            if text := _unknown_option(ctx, error) or unexpected_word(error):
                tell(text)
                raise typer.Exit(2) from None
            raise

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command, as the base class does; a shell that completes gets no message."""
        if ctx.resilient_parsing:
            return super().resolve_command(ctx, args)
        if args and self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
            names = self.list_commands(ctx)
            message = f"no such command: {quoted(args[0])}{COMMAND.hint(args[0], names)}"
            tell(f"{message}; write {or_list(names)}.")
            raise typer.Exit(2)
        return super().resolve_command(ctx, args)


class LazyCommand(NamedTuple):
    """A command that is imported only when it is called.

    Args:
      target: its function, or the `App` of its subcommands, as ``module:name``.
      summary: the first paragraph of its help, for the list of commands.
    """

    target: str
    summary: str

    def load(self, name: str) -> Any:
        """Imports the command.

        Args:
          name: its name on the command line.
        """
        module, attribute = self.target.split(":")
        found = getattr(import_module(module), attribute)
        if isinstance(found, App):
            return get_group(found)
        alone = App(add_completion=False)
        alone.command(name)(reports_errors(found))
        return get_command(alone)


class LazyGroup(Group):
    """A group that imports only the command that runs.

    Source: Click's documentation, "Lazily Loading Subcommands",
    https://click.palletsprojects.com/en/stable/complex/#lazily-loading-subcommands
    """

    lazy_commands: ClassVar[Mapping[str, LazyCommand]]

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 - the base class's signature
        """Lists the commands' names in the order of the help."""
        return list(self.lazy_commands)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Finds and imports a command; None if there is none of that name."""
        if cmd_name in self.lazy_commands and cmd_name not in self.commands:
            self.commands[cmd_name] = self.lazy_commands[cmd_name].load(cmd_name)
        return super().get_command(ctx, cmd_name)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Writes the help from the summaries, without importing any command."""
        super(LazyGroup, self._summarized()).format_help(ctx, formatter)

    def shell_complete(self, ctx: Any, incomplete: str) -> list[Any]:
        """Completes the name of a command from the summaries, without importing any."""
        ctx.command = self._summarized()
        return super(LazyGroup, ctx.command).shell_complete(ctx, incomplete)

    def _summarized(self) -> "LazyGroup":
        """Returns a copy whose commands are only names and summaries."""
        listed = copy(self)
        listed.commands = {
            name: TyperCommand(name, help=command.summary)
            for name, command in self.lazy_commands.items()
        }
        return listed


class App(typer.Typer):
    """A Typer application with these commands and groups."""

    def __init__(self, cls: type[Group] = Group, **settings: Any) -> None:
        super().__init__(cls=cls, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[_F], _F]:
        """Registers a command, as the base class does."""
        return super().command(name, cls=Command, **settings)
