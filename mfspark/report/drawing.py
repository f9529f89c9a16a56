"""Figures of matplotlib as SVG that is part of the page: its text is text, its colours are those of
the page (light and dark), and what the pointer is on says what it is."""

import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from xml.etree import ElementTree as ET  # nosec B405

import matplotlib as mpl
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREY, INK = "#1f5fa8", "#d9772b", "#9aa5b1", "#1c2733"
GREEN, VIOLET, _GRID = "#4b8b5b", "#7a5195", "#e6eaee"
# Names of the colours in the style sheet of the page.
_NAMES = {BLUE: "blue", ORANGE: "orange", GREY: "grey", INK: "ink", GREEN: "green",
          VIOLET: "violet", _GRID: "grid"}  # fmt: skip
_STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": GREY,
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": _GRID,
    "svg.fonttype": "none",
    # The same run gives the same file.
    "svg.hashsalt": "mfspark",
}
_SVG, _LINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_HOVER = "hover:"
# The pixels of a page to the points of a figure, and how far a chart may shrink before it scrolls.
_PIXELS, _LEAST_WIDTH = 96 / 72, 0.68


@contextmanager
def figure(width: float, height: float) -> Iterator[tuple[Axes, list[str]]]:
    """Axes of so many inches to draw on, and a list that holds the SVG once the block has ended."""
    result: list[str] = []
    with mpl.rc_context(_STYLE):  # type: ignore[arg-type]
        drawn = Figure(figsize=(width, height), layout="constrained")
        yield drawn.subplots(), result
        sink = io.BytesIO()
        drawn.savefig(sink, format="svg", metadata={"Date": None}, transparent=True)
    result.append(_for_a_page(sink.getvalue()))


def hover(artists: Iterable[Artist] | Artist, texts: Iterable[str]) -> None:
    """Have each of some artists, or each point of one artist, show its text under the pointer."""
    texts = list(texts)
    if isinstance(artists, Artist):
        artists.set_gid(_HOVER + json.dumps(texts))
        return
    for artist, text in zip(artists, texts, strict=True):
        artist.set_gid(_HOVER + json.dumps([text]))


def as_image(svg: str, label: str) -> Markup:
    """The markup of a chart: an image that ``label`` names, which scrolls where it would become too
    small to be read."""
    # Made by ``figure``, which has escaped all text.
    image = Markup(svg)  # nosec B704
    width = float(svg.split('viewBox="0 0 ', 1)[1].split(" ", 1)[0]) * _PIXELS
    return Markup(
        '<div class="chart" tabindex="0" role="img" aria-label="{}" style="max-width:{:.0f}px">'
        '<div style="min-width:{:.0f}px">{}</div></div>'
    ).format(label, width, _LEAST_WIDTH * width, image)


def _for_a_page(content: bytes) -> str:
    """The SVG element with titles for the pointer, ids of its own, and the colours of the page."""
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _LINK)
    # What matplotlib has just written.
    root = ET.fromstring(content)  # nosec B314
    for name in ("width", "height"):
        del root.attrib[name]
    for metadata in root.findall(f"{{{_SVG}}}metadata"):
        root.remove(metadata)
    own = hashlib.sha256(content).hexdigest()[:8]
    used = set(re.findall(r'(?:url\(#|href="#)([^)"]+)', content.decode()))
    for element in list(root.iter()):
        name = element.attrib.pop("id", "")
        if name.startswith(_HOVER):
            _add_titles(element, json.loads(name.removeprefix(_HOVER)))
        elif name in used:
            element.set("id", f"{own}-{name}")
        for key, value in element.attrib.items():
            element.set(key, _of_the_page(value, own, is_link=key == f"{{{_LINK}}}href"))
    return ET.tostring(root, encoding="unicode")


def _of_the_page(value: str, own: str, is_link: bool) -> str:
    """An attribute with references to ids that begin with ``own``, and colours by their names."""
    found = value.replace("#", f"#{own}-", 1) if is_link else value.replace("url(#", f"url(#{own}-")
    for color, variable in _NAMES.items():
        found = found.replace(color, f"var(--{variable})")
    return found


def _add_titles(element: ET.Element, texts: list[str]) -> None:
    """One for the whole, or one for each of its points."""
    points = list(element.iter(f"{{{_SVG}}}use"))
    targets = points if len(points) == len(texts) else [element]
    for target, text in zip(targets, texts, strict=False):
        title = ET.Element(f"{{{_SVG}}}title")
        title.text = text
        target.insert(0, title)
