"""The page in a browser without a screen, where there is one: no error, no request, and all is drawn."""

import re
import shutil
import subprocess

import pytest
from test_runs import write_run

from mace_md import cli

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--headless --no-sandbox --disable-gpu --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --virtual-time-budget=3000 --enable-logging=stderr --log-level=0 --enable-unsafe-swiftshader"
).split()


@pytest.mark.slow
@pytest.mark.skipif(BROWSER is None, reason="no Chromium here")
def test_the_page_is_drawn_without_an_error_or_a_request(tmp_path):
    assert cli.main(["analyze", str(write_run(tmp_path / "run")), "--quiet", "--observables", "energy,rdf"]) == 0
    page = tmp_path / "run" / "analysis" / "report.html"
    log = tmp_path / "net.json"
    done = subprocess.run(
        [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'user'}", f"--log-net-log={log}", "--dump-dom", f"file://{page}"],
        capture_output=True, text=True, timeout=500,
    )  # fmt: skip
    said = [line for line in done.stderr.splitlines() if "CONSOLE" in line and "GL Driver Message" not in line]
    assert not said, said
    assert "<canvas" in done.stdout or "needs WebGL" in done.stdout  # the script came to its end
    assert re.search(r'<output id="time"[^>]*>[\d.]+ ps|needs WebGL', done.stdout)
    asked = set(re.findall(r'"url":"(https?://[^"]+)"', log.read_text()))
    assert not asked, asked
