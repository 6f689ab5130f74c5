"""HTTP servers on this machine."""

import contextlib
import functools
import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files from the start, whatever the range."""

    def log_message(self, *_: object) -> None:
        pass


class Ranged(Quiet):
    """Serves ranges, as real servers do, and may break off.

    Args:
      cut: bytes after which each answer breaks off; None for never.
      ranges: the `Range` headers so far; emptied by the test that reads them.
    """

    cut: ClassVar[int | None] = None
    ranges: ClassVar[list[str]] = []

    def do_GET(self) -> None:
        content = Path(self.translate_path(self.path)).read_bytes()
        self.ranges.append(wanted := self.headers.get("Range", ""))
        start = int(wanted.removeprefix("bytes=").removesuffix("-") or 0)
        if start >= len(content):
            return self.send_error(416)
        self.send_response(206 if wanted else 200)
        if wanted:
            place = f"bytes {start}-{len(content) - 1}/{len(content)}"
            self.send_header("Content-Range", place)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start:][: self.cut])
        return None


@contextlib.contextmanager
def serving(folder: Path, kind: type[Quiet] = Quiet) -> Iterator[str]:
    """The address of a server for the files of a folder."""
    handler = functools.partial(kind, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
