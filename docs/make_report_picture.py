"""Draws docs/images/report.png: the top of the report on the two networks of ``make run``.

Run ``python docs/make_report_picture.py RESULTS`` after ``make run RESULTS=RESULTS``. It needs
Playwright and the system's Chromium.
"""

import io
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import sync_playwright

PICTURE = Path(__file__).parent / "images" / "report.png"
WIDTH, HEIGHT = 1280, 1340  # CSS pixels: down to the costs
COLORS = 128  # of the palette, which makes the file a third as large


def main(results: str) -> None:
    """Writes the picture.

    Args:
      results: folder of finished runs of `standard` and `modified`.
    """
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "report.html")
        runs = ["standard", "modified", "--results-dir", results]
        subprocess.run(["cnnbench", "report", *runs, "--output", str(page)], check=True)
        content = screenshot(page)
    with Image.open(io.BytesIO(content)) as image:
        image.convert("P", palette=Image.Palette.ADAPTIVE, colors=COLORS).save(
            PICTURE, optimize=True
        )


def screenshot(page: Path) -> bytes:
    """Returns the top of a page as Chromium shows it, as a PNG file."""
    with sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=shutil.which("chromium"))
        tab = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
        tab.goto(page.as_uri())
        content = tab.screenshot()
        browser.close()
    return content


if __name__ == "__main__":
    main(sys.argv[1])
