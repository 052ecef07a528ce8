"""Test of the page of `prolific ui` that compares two runs. It is skipped if Chromium is not installed.

As a script, it takes the screenshot of the documentation from a running server:

    python -m tests.flows.test_mlflow_page PORT RUN RUN docs/mlflow.png
"""

import re
import socket
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import psutil
import pytest

from flows.reporting import report
from tasks.tracking.prompt_runs import PromptRuns
from tasks.tracking.tracker import Tracker
from tests.support import browser, cube_run
from tests.support.browser import Browser

SECTIONS = "[...document.querySelectorAll('.du-bois-light-collapse-item')]"  # sections of the page, each with a heading
ROWS = "document.querySelectorAll('a[title=\"Plot chart\"]').length"


def compare(page: Browser, port: int, runs: list[str], experiment: str, path: Path) -> str:
    """Open the page that compares runs, show only parameters that differ, write a screenshot and return the DOM."""
    chosen = ",".join(f'"{run}"' for run in runs)
    page.open(
        f'http://127.0.0.1:{port}/#/compare-runs?runs=[{chosen}]&experiments=["{experiment}"]&workflowType=machine_learning'
    )
    page.until(ROWS)
    page.run("document.querySelector('[aria-label=\"Parameters - Show diff only\"]').click()")
    page.run(f"{SECTIONS}[0].querySelector('[role=button]').click()")  # hides the plots
    page.run("document.querySelector('[aria-label=Close]')?.click()")
    page.until(f"{SECTIONS}[0].getBoundingClientRect().height < 100 && {ROWS}")
    cells = f"[...{SECTIONS}[3].querySelectorAll('[role=grid] [style*=absolute]')].map(e => e.getBoundingClientRect())"
    left, right = page.run(
        f"((cells) => [Math.min(...cells.map(e => e.left)), Math.max(...cells.map(e => e.right))])({cells})"
    )
    bottom = page.run(f"{SECTIONS}[3].getBoundingClientRect().bottom")
    page.screenshot(path, left - 12, 0, right - left + 24, bottom)
    return page.run("document.documentElement.outerHTML")


def side_by_side(dom: str) -> dict[str, list[str]]:
    """Return the values of each metric in the page's table by its name."""
    grids = [
        re.findall(r'left: (\d+)px; position: absolute; top: (\d+)px; width: \d+px;">(.*?)</div>', part, re.S)
        for part in dom.split('role="grid"')
    ]
    text = lambda cell: re.sub("<[^>]*>", "", cell)  # noqa: E731
    index = next(index for index, cells in enumerate(grids) if cells and "Plot chart" in cells[0][2])
    values: dict[str, list[str]] = {}
    for _, top, cell in sorted(grids[index + 1], key=lambda cell: int(cell[0])):
        values.setdefault(top, []).append(text(cell))
    return {text(cell): values[top] for _, top, cell in grids[index]}


@pytest.fixture
def server(project, monkeypatch, tmp_path):
    """Return a function that starts `prolific ui` on a free port and returns the port."""
    monkeypatch.delenv("PROLIFIC_TRACKER")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]

    def start() -> int:
        with open(tmp_path / "ui.log", "wb") as log:
            command = [sys.executable, "-m", "flows.cli.main", "ui", "--port", str(port)]
            started.append(
                subprocess.Popen(command, cwd=project.root, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            )
        browser.until(lambda: urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5))
        return port

    started: list[subprocess.Popen] = []
    yield start
    for process in started:
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        process.terminate()
        process.wait(30)
        _, alive = psutil.wait_procs(family, 10)
        assert not alive, "processes of the server are still running"


@pytest.mark.skipif(browser.FOUND is None, reason=browser.MISSING)
def test_two_runs_show_their_metrics_side_by_side(project, clone, server, tmp_path):
    values_of = {"vsd": {"alignment": 0.75, "kernel_distance": 1.25}, "sds": {"alignment": 0.5, "kernel_distance": 8.5}}
    runs = []
    for method, values in values_of.items():
        if method == "sds":
            clone.edit("prompts/a-red-mug/prompt.yaml", "nerf: {}", "nerf: {guidance: {method: sds, scale: 100}}")
        with Tracker(project, PromptRuns(project.resolve("a-red-mug"))) as tracker:
            tracker.finish(values, [])
            runs.append(tracker.parent())
    port = server()
    screenshot = tmp_path / "compare.png"
    with Browser(tmp_path / "profile") as page:
        dom = compare(page, port, runs, tracker.address().split("/experiments/")[1].split("/")[0], screenshot)
    assert side_by_side(dom) == {"alignment": ["0.75", "0.5"], "kernel_distance": ["1.25", "8.5"]}
    differs = re.sub("<[^>]*>", " ", dom)
    assert "nerf.guidance.method" in differs and "initialise.particles" not in differs
    from PIL import Image

    shown = Image.open(screenshot).convert("L")
    assert shown.width > 600 and shown.height > 600 and shown.histogram()[255] < 0.98 * shown.width * shown.height


@pytest.mark.skipif(browser.FOUND is None, reason=browser.MISSING)
def test_the_page_of_a_run_shows_its_model(project, server, tmp_path):
    """The link of a run opens its classic view, and its report is the page that `prolific report --out` writes."""
    cube_run.make(project, "a blue mug", "a-blue-mug", {"alignment": 0.5})
    runs = PromptRuns(project.resolve("a-blue-mug"))
    with Tracker(project, runs) as tracker:
        report.export(project.resolve("a-blue-mug"), tmp_path / "a-blue-mug.html")
        tracker.finish(runs.metrics, [*runs.files, tmp_path / "a-blue-mug.html"])
        port = server()
        address = tracker.address(port)
    assert address
    with Browser(tmp_path / "profile") as page:
        page.emulate(1200, 900)
        page.open(address)
        page.until("document.body.innerText.includes('Model metrics')")
        page.open(address.replace("?", "/artifacts/a-blue-mug.html?"))
        page.until("!!document.querySelector('iframe')")
        drawn = lambda: cube_run.colours(cube_run.pixels(page, "iframe", tmp_path)) >= 2  # noqa: E731
        browser.until(lambda: drawn() or 1 / 0)
        assert all(url.startswith(f"http://127.0.0.1:{port}/") for url in page.requests())


if __name__ == "__main__":
    given = sys.argv[1:]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, Browser(Path(folder)) as page:
        compare(page, int(given[0]), given[1:3], "1", Path(given[3]))
