"""A sweep as a self-contained HTML page."""

from html import escape
from pathlib import Path

from cnnbench.comparisons.sweeps.results import SweepResult
from cnnbench.report.sweeps.section import policy, script, sweep_section, template


def sweep_page(result: SweepResult, results_dir: Path) -> str:
    """Renders a page, which needs no network.

    Args:
      result: the sweep.
      results_dir: folder of all results, for the commands that come next.
    """
    section = sweep_section(result, results_dir, level=2)
    title, code = escape(section.heading), script()
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{title}</title>'
        '\n<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy(code)}">\n'
        f"<style>{template('report.css')}{template('sweep.css')}</style>\n</head>\n"
        f'<body><main class="page">\n<h1>{title}</h1>\n{section.body}\n</main>\n'
        f"<script>{code}</script>\n</body>\n</html>\n"
    )
