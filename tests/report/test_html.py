"""The report page: structure, texts, notes, and remarks on what is missing."""

import dataclasses
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.special import softmax
from typer.testing import CliRunner, Result

from cnnbench.analysis.trained_network import load_seeds
from cnnbench.cli.app import app
from cnnbench.comparisons.comparison import compare, compare_groups
from cnnbench.data.dataset import dataset_of
from cnnbench.report.html import report_page, table_page
from cnnbench.report.run_artifacts import RunArtifacts, read_artifacts
from cnnbench.report.side_by_side import MOST
from cnnbench.report.sweeps.page import sweep_page
from cnnbench.runs.folder import read_run, read_weights
from cnnbench.runs.records import RunResult
from cnnbench.runs.weights import encode_weights
from tests.report.sweeps.test_table import TWO
from tests.support.golden import approved
from tests.support.oracles import calibration_error
from tests.support.samples import make_run, on_device, on_other, save

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]
SPECS = Path(__file__).parent / "page_specs"
NOTES = """# Why

### A *level* is skipped

| | [link](https://a.example) |
|---|---:|
| `code` | 1 |

> A quotation with an image: ![a square](a.svg)

```python
print("a long line of code" + 20 * ", which scrolls")  # and scrolls and scrolls, and scrolls
```
"""
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What a page holds; unbalanced elements are an error."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {key: value or "" for key, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, *tags: str) -> list[dict[str, str]]:
        return [attributes for tag, attributes in self.elements if tag in tags]


def bare(*runs: RunResult) -> list[RunArtifacts]:
    """Artifacts of runs without a folder."""
    titles = [run.record.title for run in runs]
    return [RunArtifacts(run, title) for run, title in zip(runs, titles, strict=True)]


def two(**options: str) -> tuple[RunResult, RunResult]:
    seeds = tuple(range(6))
    modified = make_run("modified", options.get("title", "B"), seeds=seeds, start=0.92, run_id="b")
    return make_run(seeds=seeds), modified


def report(*runs: RunResult, **options: Any) -> str:
    return report_page([compare(runs)], runs, bare(*runs), **options)


def test_the_page_of_compare_is_the_approved_one() -> None:
    standard = make_run(seeds=tuple(range(6)))
    modified = make_run(
        "modified", "Modified CNN", seeds=tuple(range(6)), start=0.9213, run_id="20251124T"
    )
    lone = make_run("autoencoder", "Convolutional autoencoder", headline="loss")
    page = table_page(compare_groups([standard, modified, lone]))
    body = page[page.index("<body>") :]
    assert body == approved("compare.html", body)


@pytest.mark.parametrize(
    "title", ["<script>alert(1)</script>", "a & b", "\"'><img src=x>", "{{ 7 }}"]
)
def test_titles_are_words_wherever_they_stand(title: str) -> None:
    runs = two(title=title)
    page = Page(report(*runs))
    assert not page.all("script", "link", "iframe", "object")
    assert all(image["src"].startswith("data:image/png;base64,") for image in page.all("img"))
    assert f"{title} is more accurate than Standard CNN" in page.text
    assert not [
        key for _, attributes in page.elements for key in attributes if key.startswith("on")
    ]


def test_the_verdict_comes_first_and_links_lead_somewhere() -> None:
    page = Page(report(*two()))
    text = page.text
    verdict = text.index("Verdict better B is more accurate than Standard CNN: +1.00 points")
    picture = text.index("Differences per seed")
    assert verdict < picture < text.index("Side by side, after the last epoch")
    tags = [tag for tag, _ in page.elements]
    assert tags.index("svg") < tags.index("table")
    ids = Counter(attributes["id"] for _, attributes in page.elements if "id" in attributes)
    assert set(ids.values()) == {1}
    for link in page.all("a"):
        assert link["href"].removeprefix("#") in ids
    for _, attributes in page.elements:
        for name in attributes.get("aria-labelledby", "").split():
            assert name in ids


def test_differences_are_named_by_what_the_verdict_rests_on() -> None:
    seeds = tuple(range(6))
    runs = [
        make_run(name, name, headline="loss", seeds=seeds, start=start, run_id=name)
        for name, start in (("a", 0.92), ("b", 0.91))
    ]
    page = Page(report(*runs))
    assert "Verdict better b is better than a: test loss -0.01 (" in page.text
    assert "Difference in test loss by seed" in page.text


def test_the_machine_of_each_seed_is_shown_where_they_differ() -> None:
    run = make_run(seeds=(0, 1))
    assert "Machine" not in Page(report(run)).text
    text = Page(report(on_other(run, 1))).text
    assert "Test Training time Machine" in text
    assert "Example CPU @ 2.10GHz with jax 0.10.2 Standard CNN 1" in text
    assert text.count("Other CPU with jax 0.11.0") == 2  # of the seed, and in the remark


def test_every_picture_has_words_with_numbers() -> None:
    page = Page(report(*two()))
    drawings = page.all("svg")
    assert len(drawings) == 5
    for drawing in drawings:
        assert drawing["role"] == "img"
        assert re.search(r"\d", drawing["aria-label"])


def test_headings_go_down_a_level_at_a_time() -> None:
    page = Page(report(*two()))
    levels = [int(tag[1]) for tag, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))


def test_every_table_has_a_caption_and_headers() -> None:
    text = report(*two())
    tables = re.findall(r"<table.*?</table>", text, re.DOTALL)
    assert (
        len(tables) == 8
    )  # side by side, epochs, expenses, differences, curves, seeds, costs, environment
    for table in tables:
        assert "<caption>" in table
        assert 'scope="col"' in table
        assert 'scope="row"' in table


def test_charts_have_their_numbers_in_tables() -> None:
    page = Page(report(*two()))
    for number in ("93.00%", "98.25%", "6.83 s", "160,362", "+1.00 points", "Example CPU"):
        assert number in page.text, number
    assert "0123456789ab" in page.text
    assert (
        "Verdicts: unpaired; exact permutation test of the seeds; CI: inversion of the test."
        in page.text
    )


def test_a_single_run_has_no_verdict() -> None:
    page = Page(report(make_run()))
    told = "Standard CNN reaches accuracy 97.00% after 3 epochs. A verdict needs a second run."
    assert f"Result single run {told}" in page.text
    assert "After the last epoch" in page.text
    assert len(page.all("svg")) == 2


def test_a_title_and_notes_of_ones_own() -> None:
    page = Page(
        report(*two(), title="Wider & <b>better</b>", author_notes="<p>Look <em>here</em></p>")
    )
    assert "Wider & <b>better</b> Standard CNN and B on mnist · MNIST · 6 seeds" in page.text
    assert "Notes Look here Cost" in page.text.replace("Skip to the verdict", "")
    assert "Notes" not in Page(report(*two())).text


def test_a_page_says_what_was_compared() -> None:
    about = "MNIST · 6 seeds · 3 epochs · Example CPU @ 2.10GHz · 2025-11-23"
    assert f"Standard CNN and B on mnist {about}" in Page(report(*two())).text


def test_warnings_are_one_line() -> None:
    runs = [on_device(run, load_per_cpu=0.5) for run in two()]
    text = report(*runs)
    (warnings,) = re.findall(r'<details class="warnings">.*?</details>', text, re.DOTALL)
    assert Page(warnings).text == (
        "Timings are noisy on this machine (load 0.5 per CPU); accuracy is not affected Standard"
        " CNN, B: the system was under load when the run started (0.50 per CPU); re-run on an idle"
        " machine."
    )
    assert "under load" not in text.replace(warnings, "")


def test_options_are_not_broken_over_two_lines() -> None:
    text = report(*(make_run(name, name, run_id=name) for name in ("a", "<b>")))
    assert 'run both with <span class="option">--seeds</span> 4' in text
    assert "to compare &lt;b&gt; with a" in text


def test_more_networks_than_fit_side_by_side_are_rows() -> None:
    runs = [make_run(f"n{i}", f"N{i}", seeds=(0, 1), run_id=f"r{i}") for i in range(MOST + 1)]
    page = Page(report(*runs))
    assert "Side by side" not in page.text
    assert "Accuracy and time" in page.text


def test_the_same_runs_give_the_same_page() -> None:
    assert report(*two()) == report(*two())


def test_an_older_run_says_what_it_lacks(tmp_path: Path) -> None:
    run = make_run()
    folder = save(run, tmp_path)
    shown = read_artifacts(run, "Standard CNN", folder, None)
    assert shown.remarks == [
        f"Network unavailable: {folder}/resolved.yaml: cannot be read: no such file or"
        " directory; check the file name.",
        f"Kernels and predictions unavailable: {folder}: no saved weights (older version,"
        " or no seed has finished); retrain with: cnnbench run"
        " experiments/standard.yaml.",
    ]
    text = Page(report_page([compare([run])], [run], [shown])).text
    assert all(remark in text for remark in shown.remarks)


def invoke(*words: str) -> Result:
    return CliRunner().invoke(app, list(words), env={"COLUMNS": "80"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Runs of two classifiers and an autoencoder, with their weights."""
    results = tmp_path_factory.mktemp("results")
    specs = [str(path) for path in sorted(SPECS.glob("*.yaml"))]
    done = invoke("run", *specs, "--quiet", "--results-dir", str(results))
    assert done.exit_code == 0, done.stderr
    return results


@pytest.fixture(scope="module")
def page(trained: Path) -> Page:
    file = trained / "report.html"
    notes = trained / "notes.md"
    notes.write_text(NOTES)
    (trained / "a.svg").write_text('<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>')
    words = ["--all", "--results-dir", str(trained), "--output", str(file), "--notes", str(notes)]
    done = invoke("report", *words)
    assert (done.exit_code, done.stderr) == (0, f"wrote {file}\n")
    return Page(file.read_text())


def test_a_report_shows_what_is_in_the_run_folders(page: Page, trained: Path) -> None:
    images = page.all("img")
    kernels = [image["alt"] for image in images if "kernels (5x5)" in image["alt"]]
    names = ["First, conv", "<i>Second, conv", "Back, conv"]
    assert [alt.split(":")[0] for alt in kernels] == names
    digits = [image for image in images if image["alt"].startswith("Test image ")]
    assert 2 < len(digits) <= 24
    assert any("their reconstructions" in image["alt"] for image in images)
    assert "conv 4 @ 5x5, relu" in page.text
    assert "learning_rate: 0.05" in page.text
    drawings = [drawing["aria-label"] for drawing in page.all("svg")]
    start = "First: input 28x28x1; conv: conv 4 @ 5x5, relu of input, output 24x24x4; pool: "
    assert any(words.startswith(start) for words in drawings)


def test_the_matrix_adds_up_the_answers_of_every_seed(page: Page, trained: Path) -> None:
    (folder,) = (trained / "first").iterdir()
    networks = load_seeds(folder)
    test = networks[0].dataset(None, pytest.fail).test
    wrong = [
        int((network.predictions(test.images).argmax(axis=1) != test.labels).sum())
        for network in networks
    ]
    labels = test.labels
    chances = [softmax(network.predictions(test.images), axis=1) for network in networks]
    recalls = np.array(  # by seed and class
        [
            [(share.argmax(axis=1) == number)[labels == number].mean() for number in range(10)]
            for share in chances
        ]
    )
    cells = re.findall(r'<td class="recall">(.*?)</td>', (trained / "report.html").read_text())
    assert cells[:10] == [f"{100 * recall:.1f}%" for recall in recalls.mean(axis=0)]
    errors = [calibration_error(share, labels) for share in chances]
    assert f"error, mean over seeds: First {100 * np.mean(errors):.2f}%" in page.text
    total = f"{sum(wrong)} of 200 predictions are wrong ({sum(wrong) / 2:.2f}%, 2 seeds x 100 test"
    assert total in page.text
    assert "Highest losses of First, 2 seeds" in page.text
    assert "p: probability of the prediction; n/m seeds misclassify the image." in page.text
    assert re.search(
        r"\b\d \N{RIGHTWARDS ARROW} \d p = [\d.]+% loss [\d.]+ [12]/2 seeds", page.text
    )
    summary = read_run(folder).summary
    assert summary is not None
    found = [seed.test["accuracy"] for seed in summary.seeds]
    assert found == pytest.approx([1 - number / 100 for number in wrong])
    found = [seed.test["balanced_accuracy"] for seed in summary.seeds]
    assert found == pytest.approx(recalls.mean(axis=1).tolist())
    assert [seed.test["ece"] for seed in summary.seeds] == pytest.approx(errors, abs=1e-5)


def test_seeds_that_diverged_are_left_out_and_named(trained: Path, tmp_path: Path) -> None:
    (folder,) = (trained / "first").iterdir()
    copy = shutil.copytree(folder, tmp_path / folder.name)
    lost = {name: np.full_like(value, np.nan) for name, value in read_weights(copy, 1).items()}
    (copy / "weights" / "seed-1.safetensors").write_bytes(encode_weights(lost))
    run = read_run(copy)
    shown = read_artifacts(run, "First", copy, None)
    assert shown.remarks == ["The confusion matrix excludes seed 1, which diverged."]
    assert shown.judged == (0,)
    text = Page(report_page([compare([run])], [run], [shown])).text
    assert "Highest losses of First, seed 0" in text


def test_the_one_seed_that_is_left_is_named(trained: Path, tmp_path: Path) -> None:
    (folder,) = (trained / "first").iterdir()
    copy = shutil.copytree(folder, tmp_path / folder.name)
    lost = {name: np.full_like(value, np.nan) for name, value in read_weights(copy, 0).items()}
    (copy / "weights" / "seed-0.safetensors").write_bytes(encode_weights(lost))
    run = read_run(copy)
    shown = read_artifacts(run, "First", copy, None)
    page = Page(report_page([compare([run])], [run], [shown]))
    assert "Highest losses of First, seed 1" in page.text
    assert shown.remarks[0] == "Weights are from seed 1 because seed 0 diverged."
    assert "First, conv: 4 kernels (5x5), seed 1" in page.text
    (kernels,) = shown.kernels
    np.testing.assert_array_equal(
        kernels.images, read_weights(copy, 1)["conv.kernel"].transpose(3, 0, 1, 2)
    )


def test_an_autoencoder_is_shown_by_the_first_seed_that_did_not_diverge(
    trained: Path, tmp_path: Path
) -> None:
    """Its reconstructions too; the run drew those of its first seed."""
    (folder,) = (trained / "back").iterdir()
    copy = shutil.copytree(folder, tmp_path / folder.name)
    run = read_run(copy)
    assert read_artifacts(run, "Back", copy, None).reconstructions is not None
    epochs = tuple(
        dataclasses.replace(epoch, train_loss=np.nan) if epoch.seed == 0 else epoch
        for epoch in run.epochs
    )
    shown = read_artifacts(dataclasses.replace(run, epochs=epochs), "Back", copy, None)
    assert shown.remarks == ["Weights are from seed 1 because seed 0 diverged."]
    assert (shown.seed, shown.reconstructions) == (1, None)
    assert shown.latent is not None


def test_without_a_seed_that_converged_no_weights_are_shown(trained: Path, tmp_path: Path) -> None:
    (folder,) = (trained / "first").iterdir()
    copy = shutil.copytree(folder, tmp_path / folder.name)
    run = read_run(copy)
    epochs = tuple(dataclasses.replace(epoch, train_loss=np.inf) for epoch in run.epochs)
    shown = read_artifacts(dataclasses.replace(run, epochs=epochs), "First", copy, None)
    assert shown.remarks == ["Kernels and predictions unavailable: every seed diverged."]
    assert (shown.seed, shown.kernels) == (None, ())


def test_runs_with_the_same_images_read_them_once(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []

    def load(spec: Any, *args: Any) -> Any:
        loaded.append(spec.name)
        return dataset_of(spec, *args)

    monkeypatch.setattr("cnnbench.analysis.trained_network.dataset_of", load)
    words = ["report", "--all", "--results-dir", str(trained), "--output", str(tmp_path / "a.html")]
    assert invoke(*words).exit_code == 0
    assert loaded == ["mnist_5k"]


def test_two_networks_are_drawn_side_by_side_with_their_differences(page: Page) -> None:
    captions = re.findall(r"(\w[\w<>]*): \d+ layers, [\d,]+ parameters", page.text)
    assert captions == ["First", "i>Second", "Back"]
    assert "Changes in <i>Second + flat: flatten ~ out: inputs pool -> flat" in page.text
    kinds = [item["class"] for item in page.all("li") if item.get("class")]
    assert kinds[:2] == ["added", "changed"]


def test_other_data_are_a_remark(trained: Path, tmp_path: Path) -> None:
    (folder,) = (trained / "first").iterdir()
    copy = shutil.copytree(folder, tmp_path / "first" / folder.name)
    record = copy / "run.json"
    record.write_text(
        re.sub(r'"digest": "sha256:\w+"', '"digest": "sha256:00"', record.read_text())
    )
    file = tmp_path / "report.html"
    assert invoke("report", str(copy), "-o", str(file)).exit_code == 0
    text = Page(file.read_text()).text
    assert "Confusion matrix and errors unavailable: " in text
    assert "is not what the run was trained on" in text
    assert "kernels (5x5)" in text


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, driven by Playwright."""
    api = pytest.importorskip("playwright.sync_api", reason="Playwright is not installed")
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        pytest.skip("there is no Chromium")
    with api.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found)
        yield chromium
        chromium.close()


@pytest.mark.parametrize(
    ("width", "scheme"),
    [
        (1280, "light"),
        (400, "dark"),
        pytest.param(1280, "dark", marks=pytest.mark.slow),
        pytest.param(400, "light", marks=pytest.mark.slow),
    ],
)
@pytest.mark.usefixtures("page")
@pytest.mark.sampled(1)
def test_a_browser_shows_the_page(
    browser: Any, trained: Path, tmp_path: Path, width: int, scheme: str
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    view = {"width": width, "height": 900}
    tab = browser.new_page(viewport=view, color_scheme=scheme, offline=True)
    told: list[str] = []
    tab.on("console", lambda message: told.append(message.text))
    tab.on("pageerror", lambda error: told.append(str(error)))
    tab.on("dialog", lambda dialog: told.append(dialog.message))
    asked: list[str] = []
    tab.on("request", lambda request: asked.append(request.url))
    tab.goto((trained / "report.html").as_uri())
    assert told == []
    assert [url for url in asked if not url.startswith("data:")] == [tab.url]
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(255, 255, 255)", "dark": "rgb(20, 24, 28)"}[scheme]
    picture = tmp_path / "page.png"
    tab.screenshot(path=picture, full_page=True)
    assert picture.stat().st_size > 50_000
    tab.evaluate("document.querySelectorAll('details').forEach(d => d.open = true)")
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    broken = "[...document.images].filter(i => !i.complete || !i.naturalWidth).length"
    assert tab.evaluate(broken) == 0
    found = Axe().run(tab, options={"runOnly": RULES}).response["violations"]
    assert [(issue["id"], issue["nodes"][0]["html"]) for issue in found] == []
    tab.close()


@pytest.mark.parametrize("width", [390, 1200])
def test_a_sweep_fits_a_phone(browser: Any, tmp_path: Path, width: int) -> None:
    """Parallel coordinates of two keys are seen whole; tables scroll beside the result at most."""
    from axe_playwright_python.sync_playwright import Axe

    file = tmp_path / "sweep.html"
    file.write_text(sweep_page(TWO, Path("results")))
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(file.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= width
    ends = "e => Math.round(e.getBoundingClientRect().right)"
    assert tab.locator(".coordinates").evaluate(ends) <= width
    assert tab.locator(".trials tbody tr:first-child td:nth-child(4)").evaluate(ends) <= width
    tab.locator(".trials button").first.click()
    assert tab.locator(".trials tbody td").first.inner_text() == "1"
    found = Axe().run(tab, options={"runOnly": RULES}).response["violations"]
    assert [(issue["id"], issue["nodes"][0]["html"]) for issue in found] == []
    tab.close()


def test_the_page_of_two_networks_is_short(browser: Any, trained: Path, tmp_path: Path) -> None:
    file = tmp_path / "two.html"
    words = ["first", "second", "--results-dir", str(trained), "--output", str(file)]
    assert invoke("report", *words).exit_code == 0
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    tab.goto(file.as_uri())
    assert tab.evaluate("document.documentElement.scrollHeight") < 3000
    # Every class of a confusion matrix is visible, however many digits its counts have.
    tab.evaluate("document.querySelectorAll('.matrix td').forEach(e => e.textContent ||= '8888')")
    fits = "[...document.querySelectorAll('.fitted')].map(e => e.scrollWidth <= e.clientWidth)"
    assert tab.evaluate(fits) == [True, True]
    tab.evaluate("""document.querySelectorAll('.matrix').forEach(matrix => {
      matrix.classList.add('named');
      matrix.querySelectorAll('th:not(:first-child)').forEach(e => e.textContent = 'machinery');
      matrix.querySelectorAll('td:not(.recall)').forEach(e => e.textContent = '88');
    })""")
    assert tab.evaluate(fits) == [True, True]
    # "+1.00 points" is wider than "1.50x", and the values are aligned nevertheless.
    widths = "[...document.querySelectorAll('.change')].map(e => e.getBoundingClientRect().width)"
    assert len(set(tab.evaluate(widths))) == 1
    tab.close()


@pytest.mark.parametrize("width", [1920, 1280, 400])
def test_wide_screens_have_two_columns_and_phones_one(
    browser: Any, tmp_path: Path, width: int
) -> None:
    file = tmp_path / "two.html"
    file.write_text(report(*two()))
    tab = browser.new_page(viewport={"width": width, "height": 900})
    tab.goto(file.as_uri())
    said, shown, numbers = (
        tab.locator(name).bounding_box() for name in (".said", ".shown", ".numbers")
    )
    if width > 1000:
        assert said["x"] + said["width"] <= shown["x"]
        assert said["y"] == shown["y"]
        assert numbers["x"] == said["x"]
    else:
        assert said["x"] == shown["x"] == numbers["x"]
        assert said["y"] + said["height"] <= shown["y"]
        assert shown["y"] + shown["height"] <= numbers["y"]
    tab.close()


@pytest.mark.usefixtures("page")
def test_the_keyboard_reaches_the_verdict_and_is_seen(browser: Any, trained: Path) -> None:
    tab = browser.new_page()
    tab.goto((trained / "report.html").as_uri())
    tab.keyboard.press("Tab")
    assert tab.evaluate("document.activeElement.className") == "skip"
    assert tab.evaluate("document.activeElement.getBoundingClientRect().left") >= 0
    assert tab.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    tab.keyboard.press("Enter")
    assert tab.evaluate("document.activeElement.id") == "main"
    tab.close()


@pytest.mark.usefixtures("page")
def test_the_page_prints(browser: Any, trained: Path) -> None:
    tab = browser.new_page(color_scheme="dark")
    tab.goto((trained / "report.html").as_uri())
    content = tab.pdf(format="A4")
    assert content.startswith(b"%PDF")
    assert len(re.findall(rb"/Type\s*/Page\b", content)) > 1
    tab.emulate_media(media="print")
    assert tab.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
    assert tab.evaluate("getComputedStyle(document.body).color") == "rgb(0, 0, 0)"
    tab.close()


def test_warnings_print_in_full(browser: Any, tmp_path: Path) -> None:
    file = tmp_path / "two.html"
    file.write_text(report(*(on_device(run, load_per_cpu=0.5) for run in two())))
    tab = browser.new_page()
    tab.goto(file.as_uri())
    assert not tab.locator(".warnings p").first.is_visible()
    tab.emulate_media(media="print")
    assert tab.locator(".warnings p").first.is_visible()
    tab.close()
