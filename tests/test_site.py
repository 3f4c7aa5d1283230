"""The website, opened page by page in a real browser."""

from pathlib import Path

import pytest
import yaml
from axe_playwright_python.sync_playwright import Axe

from nalu.experiments import EXPERIMENTS
from nalu.units import UNITS

ROOT = Path(__file__).resolve().parents[1]
# preload would fetch imported style sheets from addresses where they are not
OPTIONS = {
    "runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"],
    "preload": False,
}
WIDTHS = (1280, 390)
# The theme lets a keyboard scroll a table that is too wide, some time after a change of width.
TABLES_ARE_REACHABLE = """[...document.querySelectorAll(".pst-scrollable-table-container")].every(
    table => table.scrollWidth <= table.clientWidth || table.tabIndex === 0)"""
# A wide equation may scroll to the right, and so may a table, but not its caption.
CUT_OFF = """[...document.querySelectorAll("div.math > mjx-container, table > caption > span")]
    .filter(part => {
        const box = part.getBoundingClientRect();
        const left = part.closest("div.math, .pst-scrollable-table-container, table");
        return box.left < left.getBoundingClientRect().left - 1
            || (part.matches("span") && box.right > window.innerWidth);
    })
    .map(part => part.textContent || part.parentElement.id)"""


def documents(toc: dict) -> list[str]:
    found = [toc["root"]]
    for part in toc.get("parts", [toc]):
        found += [chapter["file"] for chapter in part["chapters"]]
    return found


PAGES = documents(yaml.safe_load((ROOT / "_toc.yml").read_text()))


class Visit:
    """A page in a window of its own, with everything it complained about or asked for."""

    def __init__(self, browser, scheme: str = "light", width: int = 1280):
        self.context = browser.new_context(
            color_scheme=scheme, viewport={"width": width, "height": 900}
        )
        self.page = self.context.new_page()
        self.complaints: list[str] = []
        self.elsewhere: list[str] = []
        self.page.on("console", self._console)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda r: self.complaints.append(f"failed: {r.url}"))
        self.page.on("response", self._response)

    def _console(self, message) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def _response(self, response) -> None:
        if response.status >= 400:
            self.complaints.append(f"{response.status}: {response.url}")

    def open(self, url: str) -> None:
        root = "file:" if url.startswith("file:") else "/".join(url.split("/")[:3])

        def only_here(route):
            if route.request.url.startswith((root, "data:", "blob:")):
                route.continue_()
            else:
                self.elsewhere.append(route.request.url)
                route.abort()

        self.page.route("**/*", only_here)
        self.page.goto(url, wait_until="load")
        self.page.wait_for_function("!document.querySelector('meta[http-equiv=refresh]')")
        if self.page.locator(".live-chart").count():
            self.page.wait_for_selector(".live-chart canvas")
        if self.page.locator("span.math, div.math").count():
            self.page.wait_for_selector("mjx-container")

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_quiet_accessible_and_self_contained(name, scheme, address, browser):
    with Visit(browser, scheme) as visit:
        visit.open(f"{address}/{name}.html")
        visit.page.wait_for_function(f"document.documentElement.dataset.theme == '{scheme}'")
        for width in WIDTHS:
            visit.page.set_viewport_size({"width": width, "height": 900})
            visit.page.wait_for_function(TABLES_ARE_REACHABLE)
            result = Axe().run(visit.page, options=OPTIONS)
            assert result.violations_count == 0, result.generate_report()
            overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
            assert visit.page.evaluate(overflow) <= 0, f"the page is wider than {width} px"
            assert visit.page.evaluate(CUT_OFF) == []
        assert visit.complaints == []
        assert visit.elsewhere == []


def test_the_page_of_units_has_every_unit_and_experiment(site, browser):
    """With their signatures: Sphinx takes a docstring that begins like one for it."""
    with Visit(browser) as visit:
        visit.open((site / "book/units.html").as_uri())
        for unit in UNITS:
            signature = visit.page.locator(f"dt[id='nalu.{unit}']").inner_text()
            assert "in_features, out_features, *" in signature
        for name in EXPERIMENTS:
            assert visit.page.locator(f"dt[id='nalu.experiments.{name}']").is_visible()


@pytest.mark.parametrize("name", ["index", *PAGES])
def test_every_page_works_from_a_folder(name, site, browser):
    with Visit(browser) as visit:
        visit.open((site / f"{name}.html").as_uri())
        assert visit.page.locator("article h1").is_visible()
        assert visit.complaints == []
        assert visit.elsewhere == []


@pytest.mark.parametrize("name", PAGES)
def test_images_load_and_have_alternative_text(name, address, browser):
    with Visit(browser) as visit:
        visit.open(f"{address}/{name}.html")
        images = visit.page.locator("article img").all()
        for image in images:
            assert len(image.get_attribute("alt") or "") > 20, image.get_attribute("src")
            assert image.evaluate("i => i.complete && i.naturalWidth > 0")
        if name.startswith("notebooks/"):
            assert images, "a notebook page without a figure"


def test_the_slider_redraws_the_surface(address, browser):
    with Visit(browser) as visit:
        visit.open(f"{address}/notebooks/03-multiplication-unit.html")
        chart = visit.page.locator(".live-chart")
        slider = chart.locator("input[type=range]")
        text = visit.page.locator("article p").first.bounding_box()
        assert chart.locator("canvas").bounding_box()["width"] <= text["width"]
        before = chart.locator("canvas").screenshot()
        slider.focus()
        for _ in range(30):  # by keyboard, as a reader without a mouse would
            slider.press("ArrowRight")
        assert float(slider.input_value()) == pytest.approx(-4)
        visit.page.wait_for_timeout(500)
        assert chart.locator("canvas").screenshot() != before


def test_figures_follow_the_theme_switch(address, browser):
    with Visit(browser) as visit:
        visit.open(f"{address}/notebooks/02-weight-construction.html")
        figure = visit.page.locator("article img").first
        light = figure.screenshot()
        visit.page.evaluate("document.documentElement.dataset.theme = 'dark'")
        visit.page.wait_for_timeout(500)
        assert figure.screenshot() != light


def test_search_finds_the_pages_of_a_word(address, browser):
    with Visit(browser) as visit:
        visit.page.goto(f"{address}/search.html?q=regulariser")
        # Results appear one after the other, and an extract may name another page.
        title = "#search-results li > a"
        found = visit.page.locator(title, has_text="Weight matrix construction")
        found.wait_for()
        assert found.get_attribute("href")
