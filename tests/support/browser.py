"""A real browser, which shows pages without a window and says what it has measured."""

import html
import json
import os
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest

from msjoe_jax.report.page import POLICY

NAMES = ("chromium", "chromium-browser", "google-chrome")
REQUIRED = "MSJOE_BROWSER_REQUIRED"  # 1: a machine without a browser fails, as in .ci/run
SCRIPT = """<script>
const size = e => { const r = e.getBoundingClientRect(); return r.width > 0 && r.height > 0; };
const name = e => e.outerHTML.slice(0, 120);
const scrolls = e => e.closest(".scroll, pre, svg") !== null;
const shown = [...document.querySelectorAll("figure, .plot, .row svg, .frames svg, img")];
const wide = e => e.getBoundingClientRect().right > window.innerWidth + 1 && !scrolls(e);
const small = e => parseFloat(getComputedStyle(e).fontSize) < MIN_FONT && e.textContent.trim();
const found = {
  width: window.innerWidth,
  content: document.documentElement.scrollWidth,
  figures: document.querySelectorAll("figure").length,
  empty: shown.filter(e => !size(e)).map(name),
  wide: [...document.body.querySelectorAll("*")].filter(wide).map(name),
  small: [...document.querySelectorAll("td, p, span, svg text, li")].filter(small).map(name),
  scripts: document.scripts.length,
  loaded: performance.getEntriesByType("resource").map(e => e.name)
    .filter(n => !n.startsWith("data:")),
};
parent.postMessage(JSON.stringify(found), "*");
</script>"""
# A window is never narrower than 500 pixels; a frame in it is.
FRAME = """<!doctype html><body style="margin:0"><pre id="measured"></pre><script>
onmessage = event => { document.getElementById("measured").textContent = event.data; };
</script><iframe src="PAGE" style="border:0;width:WIDTHpx;height:900px"></iframe></body>"""


def find_browser() -> str:
    """Returns the browser; without one the test is skipped, or fails where one is required."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        message = f"no browser ({', '.join(NAMES)})"
        if os.environ.get(REQUIRED) == "1":
            pytest.fail(f"{message}, and {REQUIRED}=1: install Debian's chromium")
        pytest.skip(f"{message}; {REQUIRED}=1 makes this a failure")
    return found


def run_browser(page: pathlib.Path, width: int, *flags: str) -> subprocess.CompletedProcess[str]:
    """Opens a page, which must not fail."""
    profile = page.parent / f"profile-{page.stem}-{width}"
    done = subprocess.run(
        [
            find_browser(),
            "--headless",
            "--no-sandbox",  # root has none; the page is ours
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
            "--no-first-run",
            "--enable-logging=stderr",
            f"--user-data-dir={profile}",
            f"--window-size={width},900",
            *flags,
            page.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=300,
    )
    shutil.rmtree(profile, ignore_errors=True)
    assert done.returncode == 0, done.stderr
    return done


def console(page: pathlib.Path, width: int) -> list[str]:
    """Returns what a page writes to the console, errors and refused resources among it."""
    lines = run_browser(page, width, "--dump-dom").stderr.splitlines()
    return [line for line in lines if "CONSOLE" in line]


def measured(page: pathlib.Path, width: int, smallest: float = 9, printed: bool = False) -> Any:
    """Measures a page: a copy of it that may run the one script that measures.

    Args:
      page: the file.
      width: of the window.
      smallest: letters smaller than so many pixels are told.
      printed: whether it is shown by the rules for paper.
    """
    text = page.read_text()
    assert POLICY in text
    text = text.replace(POLICY, f"{POLICY}; script-src 'unsafe-inline'")
    if printed:
        text = text.replace("@media print", "@media all")
    script = SCRIPT.replace("MIN_FONT", str(smallest))
    copy = page.with_name(f"measured-{width}-{page.name}")
    copy.write_text(text.replace("</body>", f"{script}</body>"))
    frame = page.with_name(f"frame-{width}-{page.name}")
    frame.write_text(FRAME.replace("PAGE", copy.name).replace("WIDTH", str(width)))
    dom = run_browser(frame, max(width, 500), "--virtual-time-budget=10000", "--dump-dom").stdout
    found = re.search(r'<pre id="measured">(.+?)</pre>', dom, re.S)
    assert found, dom[-2000:]
    return json.loads(html.unescape(found[1]))
