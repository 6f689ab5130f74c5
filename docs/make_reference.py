"""Generate the tables of docs/reference/ from the code.

Run ``python docs/make_reference.py`` after changing a command, a key of experiment files, a column
or a file of a run; a test checks that the pages are up to date.
"""

from functools import partial
from pathlib import Path

from generators import cli, run_folder, spec, tables
from generators.markdown import render

FOLDER = Path(__file__).parent / "reference"
RENDERERS = {
    "cli.md": partial(render, table=cli.table),
    "run-folder.md": partial(render, table=run_folder.table),
    "spec.md": partial(render, table=spec.table),
    "tables.md": partial(render, table=tables.table),
}


def main() -> None:
    """Write the pages."""
    for name, rendered in RENDERERS.items():
        page = FOLDER / name
        page.write_text(rendered(page.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
