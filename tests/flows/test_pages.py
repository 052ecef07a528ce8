"""Tests of the report and the gallery in a browser. They are skipped if Chromium is not installed."""

import io
import json
from pathlib import Path

import numpy as np
import pytest

from flows.reporting import gallery, report
from tests.support import browser
from tests.support.browser import Browser
from tests.support.cube_run import colours, make, pixels

pytestmark = pytest.mark.skipif(browser.FOUND is None, reason=browser.MISSING)

VIEWER = "document.querySelector('model-viewer')"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    with Browser(tmp_path_factory.mktemp("profile")) as opened:
        opened.emulate(900, 700)
        yield opened


def show(page: Browser, path: Path) -> list[str]:
    """Open a page from disk, wait for its model, and return the requested addresses."""
    page.forget()
    page.open(path.as_uri())
    page.until(f"document.readyState === 'complete' && location.href === {json.dumps(path.as_uri())}")
    if page.run(f"!!{VIEWER}"):
        page.until(f"{VIEWER}.modelIsVisible")
    assert page.errors() == []
    return page.requests()


def test_the_model_is_drawn_and_turned(page, project, tmp_path):
    make(project, "a red mug", "mug", {"alignment": 0.5, "fronts": 1.0})
    path = report.export(project.resolve("mug"), tmp_path / "a page.html")
    assert show(page, path) == [path.as_uri()]
    before = pixels(page, "model-viewer", tmp_path)
    assert colours(before) >= 2
    orbit = page.run(f"{VIEWER}.getCameraOrbit().toString()")
    page.drag(200, 300, 400)
    page.until(f"{VIEWER}.getCameraOrbit().toString() !== {json.dumps(orbit)}")
    after = pixels(page, "model-viewer", tmp_path)
    assert (np.abs(after - before).max(-1) > 40).mean() > 0.05
    page.run("document.querySelector('[data-look=shape]').click()")
    page.until(f"{VIEWER}.loaded && {VIEWER}.model.materials[0].pbrMetallicRoughness.baseColorTexture.texture === null")
    assert colours(pixels(page, "model-viewer", tmp_path)) == 0
    assert page.errors() == [] and page.requests() == [path.as_uri()]


def test_an_exported_page_holds_every_download(page, project, tmp_path):
    make(project, "a red mug", "mug", {"alignment": 0.5}, particles=2)
    show(page, report.export(project.resolve("mug"), tmp_path / "page.html"))
    read = "async a => [a.download, [...new Uint8Array(await (await fetch(a.href)).arrayBuffer())]]"
    held = page.run(f"Promise.all([...document.querySelectorAll('a[download]')].map({read}))")
    files = {name: bytes(data) for name, data in held}
    exported = project.output("mug", "export")
    names = {"mesh.glb", "mesh_1.glb", "mesh.png", "mesh_1.png"}
    assert {name: files[name] for name in names} == {name: (exported / name).read_bytes() for name in names}
    assert set(files) - names == {"mesh-obj.zip", "mesh_1-obj.zip", "contact.png", "metrics.json"}
    import zipfile

    with zipfile.ZipFile(io.BytesIO(files["mesh_1-obj.zip"])) as archive:
        assert {name: archive.read(name) for name in archive.namelist()} == {
            name: (exported / name).read_bytes() for name in ("mesh_1.obj", "mesh_1.mtl", "mesh_1.png")
        }
    page.run("document.querySelector('[data-model=\"mesh_1.glb\"]').click()")
    page.until(f"{VIEWER}.loaded && document.querySelector('[data-model=\"mesh_1.glb\"]').ariaPressed === 'true'")
    assert page.errors() == []


def test_pages_fit_narrow_and_dark_screens(page, project, tmp_path):
    make(project, "a mug " + "with a long name " * 20, "mug", {"family_agreement": 1.0, "x" * 200: 0.5})
    pages = [report.write(project.resolve("mug")), gallery.write(project)]
    try:
        page.emulate(390, 800, dark=True)
        for path in pages:
            show(page, path)
            assert page.run("document.documentElement.scrollWidth") == 390
            assert pixels(page, "h1", tmp_path).mean() < 100  # dark
        page.emulate(390, 800)
        show(page, pages[0])
        assert pixels(page, "h1", tmp_path).mean() > 150
    finally:
        page.emulate(900, 700)


def test_the_gallery_sorts_and_filters(page, project):
    for id, text, metrics in (
        ("b", "a blue mug", {"kernel_distance": 10.0, "fronts": 1.0}),
        ("a", "a red chair", {"kernel_distance": 9.5}),
        ("c", "a green mug", {"kernel_distance": -0.5, "fronts": 12.0}),
    ):
        make(project, text, id, metrics)
        report.write(project.resolve(id))
    requests = show(page, gallery.write(project))
    assert requests and all(url.startswith(project.root.as_uri()) for url in requests)
    order = "[...document.querySelectorAll('tbody tr:not([hidden])')].map(row => row.cells[0].textContent[2])"
    wall = "[...document.querySelectorAll('.model:not([hidden]) strong')].map(name => name.textContent[2])"

    def shown() -> str:
        texts = ["".join(page.run(which)) for which in (order, wall)]
        assert texts[0] == texts[1]
        return texts[0]

    def click(name: str) -> None:
        page.run(f"[...document.querySelectorAll('th button')].find(b => b.textContent === '{name}').click()")

    assert shown() == "bgr"
    click("kernel distance")
    assert shown() == "grb"  # by number: -0.5, 9.5, 10
    click("kernel distance")
    assert shown() == "brg" and page.run("document.querySelectorAll('th[aria-sort=descending]').length") == 1
    click("fronts")
    assert shown() == "bgr"  # a model without the metric comes last
    click("fronts")
    assert shown() == "gbr"
    page.run("(e => { e.value = 'MUG'; e.dispatchEvent(new Event('input')) })(document.getElementById('filter'))")
    assert shown() == "gb"
    visible = "['wall', 'table'].filter(id => document.getElementById(id).getBoundingClientRect().height > 0)"
    assert page.run(visible) == ["wall"]
    page.run("document.querySelector('[data-view=table]').click()")
    assert page.run(visible) == ["table"] and page.errors() == []


def test_nothing_in_a_result_runs_as_a_script(page, project, tmp_path):
    """The policy of the pages forbids what the templates should have escaped already."""
    evil = "\"'><img src=x onerror=alert(1)><script>alert(2)</script><svg onload=alert(3)>"
    make(project, evil, "evil", {evil: evil, "x": {evil: [evil]}})
    folder = project.output("evil", "nerf") / "preview"
    (folder / "<img src=x onerror=alert(4)>-000001.png").write_bytes(b"")
    pages = [report.write(project.resolve("evil")), gallery.write(project)]
    pages.append(report.export(project.resolve("evil"), tmp_path / "page.html"))
    for path in pages:
        show(page, path)
        assert page.run("document.querySelectorAll('[onerror], [onload]').length") == 0 and page.dialogs() == []
    injected = pages[0].read_text().replace("</h1>", "</h1><img src=x onerror=alert(5)><script>alert(6)</script>")
    (tmp_path / "injected.html").write_text(injected)
    page.open((tmp_path / "injected.html").as_uri())
    page.until(f"document.readyState === 'complete' && {VIEWER}?.modelIsVisible")
    assert page.dialogs() == [] and any("Content Security Policy" in text for text in page.errors())
