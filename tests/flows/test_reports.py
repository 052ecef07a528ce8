"""Tests of the quality benchmark's means and of the command that a report shows."""

import json

from flows.benchmarks import quality
from flows.benchmarks.quality import Row
from flows.benchmarks.results import as_json


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
    assert last == ["all", "vsd", "4", "0.44", "1.00", "", "1.12", "0.62", "", "0.50"]
    assert json.loads(as_json(rows))["rows"][0]["family_agreement"] == 0.75


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
