"""Shows slow work on files, such as decoding a folder of images, in commands without other bars."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from cnnbench.cli.terminal import stderr, tell
from cnnbench.system.progress import CountDone, Display, FileWork, ProgressLines


class OwnBar:
    """A bar on standard error that disappears when the work is done."""

    @contextmanager
    def showing(self, work: FileWork) -> Iterator[CountDone]:
        """Shows the bar; imports rich only for that."""
        from cnnbench.cli.progress import FileBars, make_progress

        with make_progress(stderr()) as bars, FileBars(bars).showing(work) as count:
            yield count


def file_display() -> Display:
    """A bar on a terminal; elsewhere, lines on standard error."""
    dumb = os.environ.get("TERM") in {"dumb", "unknown"}
    return OwnBar() if sys.stderr.isatty() and not dumb else ProgressLines(tell)
