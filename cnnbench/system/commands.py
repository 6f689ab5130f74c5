"""Formats command lines for messages, quoted for a shell."""

import os
import shlex
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

RESULTS_DIR = Path("results")  # where runs are, unless a command says otherwise
# Options of `run` that a run does not record and that resuming it needs again.
_KEPT = ("--data-dir", "--device", "--on", "--cores", "--cpus", "--gpus", "--processes")
_KEPT_FLAGS = ("--allow-python",)


def command_line(words: Iterable[str | Path]) -> str:
    r"""Joins words to a command line, quoted for a shell if necessary.

    >>> command_line(["cnnbench", "run", Path("my idea.yaml"), "title=it's"])
    'cnnbench run \'my idea.yaml\' \'title=it\'"\'"\'s\''
    """
    return " ".join(map(_quoted, words))


def cnnbench(*words: str | Path) -> str:
    """A `cnnbench` command line.

    >>> cnnbench("run", Path("-a;b.yaml"), "--seeds", "6")
    "cnnbench run './-a;b.yaml' --seeds 6"
    """
    return command_line(["cnnbench", *words])


def pip_install(*words: str) -> str:
    """A `pip install` command line.

    >>> pip_install("cnnbench[export]"), pip_install("mlxtend")
    ("pip install 'cnnbench[export]'", 'pip install mlxtend')
    """
    return command_line(["pip", "install", *words])


def results_dir_option(results_dir: Path) -> tuple[str | Path, ...]:
    """The option for the results folder; empty for the default."""
    return () if results_dir == RESULTS_DIR else ("--results-dir", results_dir)


def resume(command: Sequence[str], *folders: Path) -> str:
    """Returns the command line that resumes runs.

    Args:
      command: their command line, which may have named the folder of the images.
      folders: their folders.
    """
    words: list[str | Path] = []
    for folder in folders:
        usual = folder.parent.parent == RESULTS_DIR
        words += ["--resume", folder.name if usual else folder]  # short enough for a line
    return cnnbench("run", *words, *resume_options(command))


def with_needed(command: Sequence[str]) -> list[str]:
    """Returns the words of a command line that keeps what an earlier one has trained.

    >>> with_needed(["cnnbench", "run", "a.yaml", "b.yaml", "--until-decided"])
    ['cnnbench', 'run', 'a.yaml', 'b.yaml', '--until-decided', '--needed']
    """
    return [*command, *([] if "--needed" in command else ["--needed"])]


def without_options(words: Sequence[str], *names: str) -> list[str]:
    """Returns the words of a command line without some options and their values.

    >>> without_options(["cnnbench", "run", "a.yaml", "--on", "slurm", "-q"], "--on")
    ['cnnbench', 'run', 'a.yaml', '-q']
    """
    kept, skip = [], False
    for word in words:
        if not skip and word.partition("=")[0] not in names:
            kept.append(word)
        skip = not skip and word in names
    return kept


def resume_options(command: Sequence[str]) -> tuple[str, ...]:
    """Returns the options of a command line that resuming its runs needs again.

    >>> resume_options(["cnnbench", "run", "a.yaml", "--data-dir", "d", "--seeds", "3"])
    ('--data-dir', 'd')
    """
    return tuple(_kept(command))


def _kept(words: Sequence[str]) -> Iterator[str]:
    for place, word in enumerate(words):
        name, equals, _ = word.partition("=")
        if word in _KEPT_FLAGS or (name in _KEPT and equals):
            yield word
        elif word in _KEPT and place + 1 < len(words):
            yield from (word, words[place + 1])


def _quoted(word: str | Path) -> str:
    r"""Quotes a word; control codes are escaped in the syntax of bash, zsh and ksh.

    >>> print(_quoted("a\nb"), _quoted("$HOME"), _quoted("50%"))
    $'a\x0ab' '$HOME' 50%
    """
    text = f"./{word}" if isinstance(word, Path) and str(word).startswith("-") else str(word)
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_escaped, os.fsencode(text)))}'"


def _escaped(byte: int) -> str:
    char = chr(byte)
    return char if char.isascii() and char.isprintable() and char not in "\\'" else f"\\x{byte:02x}"
