"""The page in a real Chromium, as a person meets it."""

import shutil

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import sync_playwright

from reporting.write import CONTENTS, write_page
from tests.page import paged
from tests.page.paged import MARKUP

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
QUIET = (
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


@pytest.fixture(scope="module")
def chromium():
    # Chromium refuses its sandbox to root, who runs the tests in many containers.
    options = {"executable_path": CHROMIUM, "args": QUIET, "chromium_sandbox": False}
    with sync_playwright() as playwright, playwright.chromium.launch(**options) as browser:
        yield browser


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """The page of two engines, a failed run with hostile names, a proof and a benchmark."""
    folder = tmp_path_factory.mktemp("page")
    made = paged.Evidence(folder).add_all()
    failure = {"reason": MARKUP}
    made.add_run(MARKUP, "base", name="x<b>x", status="failed", failure=failure)
    write_page(folder / "page.html", made.read(), ["report.py", MARKUP])
    return folder / "page.html"


class Seen:
    """An open page, with what it said and asked for."""

    def __init__(self, browser, file, **options):
        self.context = browser.new_context(**options)
        self.page = self.context.new_page()
        self.said, self.asked, self.dialogs = [], [], []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.on("dialog", self._refuse)
        self.page.goto(file.as_uri())

    def _refuse(self, dialog):
        self.dialogs.append(dialog.message)
        dialog.dismiss()


@pytest.fixture
def seen(chromium, file):
    """Open the page with options of a browser's context."""
    opened = []

    def open_page(**options):
        opened.append(Seen(chromium, file, **options))
        return opened[-1]

    yield open_page
    for one in opened:
        one.context.close()


def test_every_section_shows_and_nothing_is_asked_for(seen, file):
    one = seen()
    for name, title in CONTENTS:
        section = one.page.locator(f"section#{name}")
        assert section.locator("h2").inner_text() == title
        assert section.bounding_box()["height"] > 60
    one.page.wait_for_timeout(300)
    assert one.said == []
    assert [url for url in one.asked if not url.startswith("data:")] == [file.as_uri()]
    assert one.page.locator("#samples-grid > li").count() > 0
    assert one.page.locator("svg").count() >= 8


def test_what_it_must_not_do_would_be_seen(chromium, file, tmp_path):
    # The same instruments on a page that does it: a request, and a script that may not run.
    bad = tmp_path / "bad.html"
    text = file.read_text().replace("default-src 'none'", "default-src *")
    bad.write_text(
        text.replace(
            "</body>", '<iframe src="http://127.0.0.1:9/x"></iframe><script>1</script></body>'
        )
    )
    one = Seen(chromium, bad)
    one.page.wait_for_timeout(300)
    assert any("127.0.0.1:9" in url for url in one.asked)
    assert any("Content Security Policy" in text for text in one.said)
    one.context.close()


def test_hostile_names_are_shown_and_do_nothing(seen):
    one = seen()
    assert one.page.get_by_text(MARKUP).count() > 0
    assert one.page.locator("img[src=x]").count() == 0
    assert one.dialogs == []


@pytest.mark.parametrize("scheme", ["light", pytest.param("dark", marks=pytest.mark.slow)])
def test_axe_finds_nothing(seen, scheme):
    one = seen(color_scheme=scheme, bypass_csp=True)
    one.page.evaluate("for (const part of document.querySelectorAll('details')) part.open = true")
    found = Axe().run(one.page)
    assert found.violations_count == 0, found.generate_report()
    # And it would find a picture without a text.
    one.page.evaluate("document.querySelector('img').removeAttribute('alt')")
    assert Axe().run(one.page, context="img").violations_count == 1


def counts(page):
    return page.locator("#samples-count").inner_text()


def test_filters_by_mouse(seen):
    page = seen().page
    # Both runs of Keras get the first 5 wrong, both of Lightning the first 8, of 200.
    assert counts(page).startswith("8 of 8 images that match")
    page.select_option("#filter-run", label="Keras on TensorFlow, base")
    assert counts(page).startswith("5 of 5 images")
    page.select_option("#filter-run", "")
    page.select_option("#filter-outcome", "disagree")
    assert counts(page).startswith("3 of 3 images")
    page.select_option("#filter-outcome", "correct")
    first = page.locator("#samples-grid > li").first
    assert "✓" in first.inner_text()
    assert "✗" not in page.locator("#samples-grid").inner_text()
    page.select_option("#filter-outcome", "incorrect")
    page.select_option("#filter-class", "3")
    truths = page.locator("#samples-grid > li strong").all_inner_texts()
    assert set(truths) == {"d"}


def test_more_are_shown_when_asked_for(seen):
    page = seen().page
    page.select_option("#filter-outcome", "")
    assert page.locator("#samples-grid > li").count() == 48
    page.get_by_role("button", name="Show more").click()
    assert page.locator("#samples-grid > li").count() == 96


def test_the_keyboard_does_it_all(seen):
    page = seen().page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the results"
    page.locator("#filter-outcome").focus()
    page.keyboard.press("t")  # they disagree
    assert counts(page).startswith("3 of 3 images")
    chart = page.locator("[data-curves]").first
    chart.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert chart.locator(".read").inner_text().startswith("Epoch 2: Keras on TensorFlow, train 0.9")
    page.keyboard.press("ArrowLeft")
    assert chart.locator(".read").inner_text().startswith("Epoch 1:")


def test_values_on_hover(seen):
    page = seen().page
    chart = page.locator("[data-curves]").first
    chart.scroll_into_view_if_needed()
    box = chart.locator("svg").bounding_box()
    page.mouse.move(box["x"] + box["width"] - 20, box["y"] + 60)
    assert chart.locator(".read").inner_text().startswith("Epoch 3: ")


@pytest.mark.parametrize("width", [320, 390, 800])
def test_a_narrow_screen_scrolls_down_only(seen, width):
    page = seen(viewport={"width": width, "height": 800}).page
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_paper_has_the_sections_and_no_controls(seen):
    page = seen().page
    page.emulate_media(media="print")
    assert page.locator("nav").is_hidden()
    assert page.locator(".filters").is_hidden()
    assert page.locator("section#summary").is_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert page.pdf()[:5] == b"%PDF-"


def test_without_scripts_it_says_what_is_missing(seen):
    page = seen(java_script_enabled=False).page
    assert page.locator("noscript p").is_visible()
    assert page.locator("section#training svg").count() == 4
