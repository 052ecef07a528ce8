"""Tests of the quality benchmark's means and of the pages. Those in a browser: test_pages.py."""

import json
from base64 import b64encode
from html.parser import HTMLParser

import pytest
from PIL import Image

from flows.benchmarks import quality
from flows.benchmarks.quality import Row
from flows.benchmarks.results import as_json
from flows.reporting import html
from prolific_core.errors import InputError
from tasks.runtime.project import STAGES


def test_means_over_seeds_then_over_prompts(project, monkeypatch):
    known = {("a red mug", "vsd"): [1.0, 0.5], ("a blue chair", "vsd"): [0.0, 0.25]}

    def metrics(project, text, method, seed, preset):
        own = {"fronts": [1, 2][seed]} if "chair" in text else {"saturation_ratio": [0.5, 1.75][seed]}
        return {"family_agreement": known[text, method][seed], "colour_agreement": 1.0, "faces": 7.0, **own}

    monkeypatch.setattr(quality, "_metrics", metrics)
    rows = quality.quality(project, prompts=["a red mug", "a blue chair"], seeds=2, methods=["vsd"], preset="tiny")
    mug = Row("a red mug", "vsd", 2, 0.75, 1.0, saturation_ratio=1.125, saturation_error=0.625)
    assert rows == [mug, Row("a blue chair", "vsd", 2, 0.125, 1.0, one_front=0.5)]
    last = [cell.strip() for cell in quality.table(rows).splitlines()[-1].split("|")[1:-1]]
    assert last == ["all", "vsd", "4", "0.44", "1.00", "", "1.12", "0.62", "", "", "", "0.50"]
    assert json.loads(as_json(rows))["rows"][0]["family_agreement"] == 0.75


def test_a_run_of_the_quality_benchmark_is_a_run_of_the_flow(clone, project, prefect_server, monkeypatch):
    for name, value in prefect_server.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("PROLIFIC_ROOT", str(clone.root))
    assert quality._metrics(project, "a red mug", "sds", 1, "tiny") == {"quality": 0.5}
    assert clone.ran() == list(STAGES) and project.prompt_ids() == ["a-red-mug", "a-red-mug-s1-tiny-sds"]


def test_the_report_says_how_to_make_it_again(project):
    from flows.prompt_store import create
    from flows.reporting import report

    def command(prompt):
        return report.command(prompt, project.config(prompt))

    assert command(create.file_prompt(project, "a red mug", seed=3)) == "prolific generate --seed 3 'a red mug'"
    assert (
        command(create.file_prompt(project, "a blue mug", method="sds"))
        == "prolific generate --method sds 'a blue mug'"
    )
    assert command(create.file_prompt(project, "-x", id="dash")).endswith("-- -x")
    prompt = create.file_prompt(project, "a green mug")
    file = project.prompt_folder(prompt.id) / "prompt.yaml"
    file.write_text(file.read_text().replace("nerf: {}", "nerf: {steps: 7}"))
    assert command(project.prompt(prompt.id)) == f"prolific sweep {prompt.id}"


class Page(HTMLParser):
    """The text of a page and the attributes of its tags, in which every tag that is opened is closed."""

    EMPTY = {"meta", "link", "img", "polyline", "line", "input"}

    def __init__(self, html: str):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.open += [] if tag in self.EMPTY else [tag]

    def handle_endtag(self, tag):
        assert tag in self.EMPTY or self.open.pop() == tag

    def handle_data(self, data):
        self.words += data.split() if self.open and self.open[-1] not in ("style", "script") else []

    def links(self) -> list[str]:
        return [attributes[name] for _, attributes in self.tags for name in ("src", "href") if name in attributes]


def test_pages_are_whole_and_hold_text_as_text(project):
    from flows.prompt_store import create
    from flows.reporting import gallery, report

    text = """<script>alert("x")</script> & {{ 7 * 7 }} 'mug'"""
    prompt = create.file_prompt(project, text, preset="tiny", id="odd-mug")
    evaluated, exported = project.output(prompt.id, "evaluate"), project.output(prompt.id, "export")
    state = project.stage_state(prompt.id, "nerf")
    for folder in (evaluated, exported, state / "preview"):
        folder.mkdir(parents=True)
    for name in ("turntable.mp4", "contact.png"):
        (evaluated / name).write_bytes(name.encode())
    for step in range(5):
        (state / "preview" / f"rgb-{step:06}.png").write_bytes(b"rgb")
    (exported / "mesh.glb").write_bytes(bytes(2_500_000))
    (evaluated / "metrics.json").write_text(json.dumps({"clip_score": 0.25123456, "faces": 12345.6, "fronts": None}))
    subject = {"id": prompt.id, "text": text, "seed": 0, "preset": "tiny"}
    (evaluated / "manifest.json").write_text(json.dumps({"prompt": subject}))
    (state / "run.json").write_text(json.dumps({"seconds": 61.4, "peak_memory_mb": 512.2, "device": "cpu"}))
    losses = [
        {"kind": "metrics", "step": step, "values": {"loss": loss}} for step, loss in ((1, 3.0), (2, 9.0), (2, 1.0))
    ]
    (state / "records.jsonl").write_text("".join(json.dumps(record) + "\n" for record in losses))

    html = report.write(project.resolve(prompt.id)).read_text()
    page = Page(html)
    assert not [link for link in page.links() if link.startswith("http")]
    files = ["export/mesh.glb", "evaluate/turntable.mp4", "evaluate/contact.png", "evaluate/metrics.json"]
    assert page.links() == [
        "data:,",
        "../gallery/index.html",
        *(f"../runs/odd-mug/{name}" for name in files),
        *(f"data:{kind};base64,{b64encode(name.encode()).decode()}" for kind, name in
          (("image/png", "contact.png"), ("video/mp4", "turntable.mp4"))),
        *[f"data:image/png;base64,{b64encode(b'rgb').decode()}"] * 3,
    ]  # fmt: skip
    shown = " ".join(page.words)
    assert text in shown and "2.5 MB" in shown and "61 s · 512 MB · cpu" in shown and "loss by step" in shown
    for row in ("clip score 0.251", "mean over the particles (count) 12,346", "not a number 1 nearer to 1"):
        assert row in shown
    curve = [tag[1]["points"] for tag in page.tags if tag[0] == "polyline"]
    assert curve == ["46.0,8.0 306.0,124.0"]  # of the losses 3 and 1
    assert all(f"step {step}" in shown for step in (2, 3, 4)) and "step 1" not in shown

    exported = Page(report.export(project.resolve(prompt.id), project.root / "new folder" / "page.html").read_text())
    assert all(link.startswith("data:") for link in exported.links())
    with pytest.raises(InputError, match="new folder is a folder; give the name of a file"):
        report.export(project.resolve(prompt.id), project.root / "new folder")
    with pytest.raises(InputError, match=r"cannot write .*params.yaml/page.html \(.*\); choose another place"):
        report.export(project.resolve(prompt.id), project.root / "params.yaml" / "page.html")

    html = gallery.write(project).read_text()
    page = Page(html)
    assert text in " ".join(page.words) and "1 models" not in html
    assert set(page.links()) == {"data:,", "../reports/odd-mug.html", "../runs/odd-mug/evaluate/contact.png"}


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (1.0, "ratio", "1.00"),
        (1.0, "count", "1"),
        (1.5, "count", "1.50"),
        (20000.0, "count", "20,000"),
        (-0.2586, "", "-0.259"),
        (float("inf"), "", "not a number"),
        (10**400, "", "not a number"),
        (None, "", "not a number"),
        ([1], "", "[1]"),
    ],
)
def test_numbers_are_short(value, unit, shown):
    from flows.reporting.html import number

    assert number(value, unit) == shown


@pytest.mark.parametrize("kind", [".glb", ".ply", ".zip", ".mp4", ".json", ".png"])
def test_every_kind_of_download_can_be_part_of_a_page(tmp_path, kind):
    path = tmp_path / f"mesh{kind}"
    path.write_bytes(b"content")
    assert html.inline(path).endswith(";base64,Y29udGVudA==")


def test_a_page_has_no_empty_parts(project):
    from flows.reporting import gallery, report

    resolved = project.resolve("a-red-mug")
    for work in (report.write, lambda resolved: report.export(resolved, project.root / "page.html")):
        with pytest.raises(InputError, match="has no results yet; make them: prolific sweep a-red-mug"):
            work(resolved)
    project.output("a-red-mug", "initialise").mkdir(parents=True)
    page = Page(report.write(resolved).read_text())
    assert not {"model-viewer", "script", "figure", "section", "ul", "img", "video"} & {tag for tag, _ in page.tags}
    assert "Metrics" not in page.words and "Parameters" in page.words
    assert "No models yet" in gallery.write(project).read_text()


def test_previews_are_shown_without_the_state_of_the_machine(project):
    """After `dvc pull`, the folder .state belongs to another machine."""
    import shutil

    import numpy as np

    from flows.reporting import report
    from tasks.runtime.stage import Stage

    Stage(project, "initialise", "a-red-mug").run(
        lambda stage: {} if stage.image("initial", np.zeros((3, 2, 2), np.float32), 1, keep=True) else None
    )
    shutil.rmtree(project.stage_state("a-red-mug", "initialise"))
    page = Page(report.write(project.resolve("a-red-mug")).read_text())
    assert [attributes["alt"] for tag, attributes in page.tags if tag == "img"] == ["Initial scene, step 1"]


def test_previews_are_explained(project):
    from flows.reporting import report

    def page() -> str:
        return report.write(project.resolve("a-red-mug")).read_text()

    for stage, words in {
        "initialise": "From left to right: colours, opacity and normals.",
        "nerf": "From top to bottom: colours, normals, opacity, and depth",
        "geometry": "Normals of the surface.",
    }.items():
        folder = project.output("a-red-mug", stage) / "preview"
        folder.mkdir(parents=True)
        assert words not in page()
        Image.new("RGB", (4, 4)).save(folder / "views-000020.png")
        assert words in page()


def test_curves_in_an_output_are_shown_unless_they_are_damaged(project):
    from flows.reporting import report

    folder = project.output("a-red-mug", "nerf")
    folder.mkdir(parents=True)

    def lines(text: str) -> int:
        (folder / "curve.json").write_text(text)
        return report.write(project.resolve("a-red-mug")).read_text().count("<polyline")

    assert lines('[{"step": 1, "loss": 2.5}, {"step": 2, "loss": 1, "opacity": 0.5}]') == 1
    for damaged in ("", "{", "3", "[3]", '[{"step": "<b>", "loss": 1}, {"step": 2, "loss": NaN}]', '[{"loss": 1}]'):
        assert lines(damaged) == 0


@pytest.mark.parametrize(
    ("points", "logarithmic", "line", "labels"),
    [
        ([(1, 0.0), (5, 10.0)], False, "46.0,124.0 306.0,8.0", ["0", "5", "10"]),
        ([(0, 1000.0), (10, 1.0)], True, "46.0,8.0 306.0,124.0", ["1", "10", "100", "1000"]),
        ([(0, 5.0), (2, 5.0), (4, 5.0)], False, "46.0,66.0 176.0,66.0 306.0,66.0", ["2", "4", "6", "8"]),
        ([(0, -0.2), (1, 0.1)], False, "46.0,124.0 306.0,8.0", ["-0.2", "-0.1", "0", "0.1"]),
    ],
)
def test_curves_have_axes_with_round_numbers(points, logarithmic, line, labels):
    from flows.reporting import charts

    drawn = charts.chart(points)
    assert drawn and drawn.logarithmic == logarithmic and drawn.points == line
    assert [label for _, label in drawn.y_ticks] == labels
    assert charts.chart(points[:1]) is None and charts.chart([]) is None


def test_outliers_do_not_flatten_a_curve():
    from flows.reporting import charts

    drawn = charts.chart([(step, 1e6 if step == 7 else step / 200) for step in range(200)])
    assert drawn and float(drawn.y_ticks[-1][1]) == 1 and "e" not in drawn.points


def test_nothing_in_a_result_becomes_markup(project):
    """The files of a result may come from elsewhere, as with `dvc pull`."""
    from flows.reporting import gallery

    evil = "\"'><img src=x onerror=alert(1)><script>alert(2)</script>"
    folder = project.root / "runs" / "'\"><svg onload=alert(3)>" / "evaluate"
    folder.mkdir(parents=True)
    subject = {"id": evil, "text": evil, "seed": evil, "preset": evil}
    (folder / "manifest.json").write_text(json.dumps({"prompt": subject}))
    (folder / "metrics.json").write_text(json.dumps({evil: evil, "x": {evil: [evil]}}))
    page = Page(gallery.write(project).read_text())
    assert [tag for tag, _ in page.tags].count("script") == 1 and "svg" not in {tag for tag, _ in page.tags}
    assert not [name for _, attributes in page.tags for name in attributes if name.startswith("on")]
    assert all(link.startswith(("data:,", "../reports/%27%22%3E%3Csvg", "../runs/%27%22")) for link in page.links())
    assert evil in " ".join(page.words)
