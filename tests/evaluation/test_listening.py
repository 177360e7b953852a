"""The page to listen to opens from a disk, without a network, whatever the networks are called."""

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import soundfile
from made_up import made_up_corpus
from playwright.sync_api import sync_playwright
from typer.testing import CliRunner

from bgm_pipeline.cli import app
from bgm_pipeline.models import registry

LABEL = "<script>alert(1)</script>"


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("listening")
    made_up_corpus(folder, "test")
    nmf = registry.get("nmf")
    registry.save(nmf.build(), nmf, folder / "nmf.safetensors", {})
    arguments = ["evaluate", "--corpus", folder, "--listen", folder / "page", "--mixtures", 1]
    arguments += [
        "--model",
        f"{LABEL}={folder / 'nmf.safetensors'}",
        "--device",
        "cpu",
        "-o",
        folder / "reports",
    ]
    done = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert done.exit_code == 0, done.output
    assert not (folder / "reports").exists()
    return folder / "page/index.html"


class Links(HTMLParser):
    """Where the page's pictures and sounds lie."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.sources: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href") and value]


def test_all_lies_beside_the_page_and_names_are_text(page: Path) -> None:
    links = Links(page.read_text())
    assert "script" not in links.tags
    assert "http" not in page.read_text()
    assert len(links.sources) == 2 * 3 * 3, (
        "spectrogram and sound; three levels; mixture, target, one network"
    )
    assert all((page.parent / source).is_file() for source in links.sources)


def test_mixture_and_target_can_be_heard(page: Path) -> None:
    (mixture, rate), (target, _) = (soundfile.read(page.with_name(f"0_0_{at}.flac")) for at in (0, 1))
    assert rate == 16_000
    assert len(mixture) == len(target) == 12 * rate
    assert np.corrcoef(mixture, target)[0, 1] == pytest.approx(0.7, abs=0.15), "as loud as the speech"


def test_a_browser_shows_and_plays_it(page: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=["--no-sandbox"])
        tab = browser.new_page()
        asked: list[str] = []
        tab.on("request", lambda request: asked.append(request.url))
        tab.goto(page.as_uri())
        widths = tab.eval_on_selector_all("img", "images => images.map(image => image.naturalWidth)")
        seconds = tab.eval_on_selector(
            "audio",
            "a => new Promise((done, fail) => { a.onloadedmetadata = () => done(a.duration);"
            " a.onerror = () => fail(a.error.message); a.load() })",
        )
        shown = tab.inner_text("body")
        browser.close()
    assert min(widths) > 500
    assert seconds == pytest.approx(12)
    assert LABEL in shown
    assert all(url.startswith("file:") for url in asked)
