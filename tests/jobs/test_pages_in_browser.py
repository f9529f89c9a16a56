"""Pages as browsers have them; what has to be installed for it is told by ``check_page.py``."""

import pytest
from check_page import faults_of_page, find_browser

pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chromium on PATH")

GOOD = """<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>page</title>
<meta name="viewport" content="width=device-width"></head>
<body><main><h1>page</h1>{}</main></body>"""


FAULTS = [
    ("<p>as it should be</p>", None),
    ('<p style="width: 800px">wide</p>', "390 wide: wider than the window"),
    ("<script>nowhere()</script>", "error: nowhere is not defined"),
    ("<script>console.warn('odd')</script>", "console: odd"),
    ("<script>alert(1)</script>", "text ran as a script"),
    ('<img src="data:image/gif;base64,R0lGODlhAQABAAAAACw=">', "axe image-alt"),
    ('<p style="color: #eee; background: #fff">pale</p>', "axe color-contrast"),
    ("<details><summary>all</summary><pre>x</pre></details>", "stays folded"),
    (
        '<div id="search"><label>Title <input></label><script type="application/json" '
        'id="search-index">{"items": [["a film"]]}</script></div>',
        "the search box does not find a film",
    ),
]
# One fault of each kind: of text, of style.
IN_CI = (None, "text ran as a script", "axe color-contrast")


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        pytest.param(content, fault, marks=[] if fault in IN_CI else pytest.mark.thorough)
        for content, fault in FAULTS
    ],
)
def test_what_is_wrong_is_seen(tmp_path, content, fault):
    page = tmp_path / "page.html"
    page.write_text(GOOD.format(content), encoding="utf-8")
    found = faults_of_page(page, find_browser())
    assert bool(found) == (fault is not None)
    assert fault is None or any(fault in each for each in found), found


def test_pages_of_a_run(finished):
    run = finished[0] / "runs/mine"
    for page in ("report/index.html", "description/index.html"):
        assert faults_of_page(run / page, find_browser()) == []
    assert (run / "report/index.html").stat().st_size < 5e6
