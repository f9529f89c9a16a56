"""A page of mfspark in headless Chromium: errors on the console, what is wider than the window,
text that runs as a script, the search box, and with axe-core what shuts people out.

    python tests/jobs/check_page.py runs/demo/report/index.html

Prints what is wrong, and ends with 1 if anything is. The browser is a Chromium or Chrome on PATH.
"""

import argparse
import shutil
import sys
from pathlib import Path
from typing import Literal

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright

WIDTHS = (390, 768, 1280)
SCHEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
# What sticks out of the window; tables and charts scroll inside it.
_TOO_WIDE = """() => {
  const width = document.documentElement.clientWidth;
  if (document.documentElement.scrollWidth <= width) return [];
  return Array.from(document.querySelectorAll("body *"))
    .filter(e => e.getBoundingClientRect().right > width + 1 && !e.closest(".scroll, .chart"))
    .slice(0, 3).map(e => e.outerHTML.slice(0, 90))
    .concat([`${document.documentElement.scrollWidth} in place of ${width}`]);
}"""


def find_browser() -> str | None:
    """Chromium or Chrome, where it is installed."""
    names = ("chromium", "chromium-browser", "google-chrome", "chrome")
    return next((path for path in map(shutil.which, names) if path), None)


def faults_of_page(path: Path, executable: str) -> list[str]:
    """What is wrong with a page at each of ``WIDTHS``, in light and dark, and on paper."""
    with sync_playwright() as tools:
        browser = tools.chromium.launch(executable_path=executable, args=["--no-sandbox"])
        try:
            faults = [
                f"{scheme}, {width} wide: {fault}"
                for scheme in SCHEMES
                for width in WIDTHS
                for fault in _faults(browser, path, width, scheme)
            ]
            return faults + _faults_of_paper(browser, path)
        finally:
            browser.close()


def _faults(
    browser: Browser, path: Path, width: int, scheme: Literal["light", "dark"]
) -> list[str]:
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    found: list[str] = []
    page.on("pageerror", lambda error: found.append(f"error: {error.message}"))
    page.on("console", lambda message: found.append(f"console: {message.text}"))

    def close(dialog: object) -> None:
        found.append("text ran as a script and opened a dialog")
        dialog.dismiss()  # type: ignore[attr-defined]

    page.on("dialog", close)
    page.goto(path.resolve().as_uri())
    found += [f"wider than the window: {element}" for element in page.evaluate(_TOO_WIDE)]
    found += _faults_of_search(page)
    for rule in Axe().run(page).response["violations"]:
        first = rule["nodes"][0]
        found.append(
            f"axe {rule['id']} ({rule['impact']}), {len(rule['nodes'])} times: "
            f"{first['html'][:160]}: {first['failureSummary']}"
        )
    page.close()
    return found


def _faults_of_search(page: Page) -> list[str]:
    """A page that has a search box finds an item by its name from the keyboard alone."""
    if not page.locator("#search").count():
        return []
    name = page.evaluate(
        "JSON.parse(document.getElementById('search-index').textContent).items[0][0]"
    )
    box = page.get_by_label("Title")
    box.fill(name.upper())
    box.press("Tab")
    page.keyboard.press("Enter")
    shown = page.locator("#search h3")
    if shown.count() and shown.first.text_content() == name:
        return []
    return [f"the search box does not find {name}"]


def _faults_of_paper(browser: Browser, path: Path) -> list[str]:
    """What is folded on the screen is open on paper, with or without scripts."""
    faults = []
    for scripts in (True, False):
        context = browser.new_context(java_script_enabled=scripts)
        page = context.new_page()
        page.goto(path.resolve().as_uri())
        page.emulate_media(media="print")
        folded = page.locator("details pre")
        if folded.count() and not folded.first.is_visible():
            faults.append(f"print, scripts {scripts}: the configuration stays folded")
        if page.locator("#search").count() and page.locator("#search").is_visible():
            faults.append(f"print, scripts {scripts}: there is a search box")
        context.close()
    return faults


def main() -> None:
    """The command line."""
    assert __doc__ is not None
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n", maxsplit=1)[0])
    parser.add_argument("pages", nargs="+", type=Path)
    pages = parser.parse_args().pages
    executable = find_browser()
    if executable is None:
        sys.exit("no Chromium or Chrome on PATH; install one (Debian: apt install chromium)")
    found = {page: faults_of_page(page, executable) for page in pages}
    for page, faults in found.items():
        print(f"{page}: {len(faults)} faults", *faults, sep="\n  ")
    sys.exit(int(any(found.values())))


if __name__ == "__main__":
    main()
