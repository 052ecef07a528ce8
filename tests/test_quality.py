"""The bench's arithmetic, on measures that are known."""

import json

from flows import quality
from flows.quality import Row


def test_means_over_seeds_then_over_prompts(project, monkeypatch):
    known = {("a red mug", "vsd"): [1.0, 0.5], ("a blue chair", "vsd"): [0.0, 0.25]}

    def measures(project, text, method, seed, preset):
        return {"family_agreement": known[text, method][seed], "colour_agreement": 1.0, "faces": 7.0}

    monkeypatch.setattr(quality, "_measures", measures)
    rows = quality.quality(project, prompts=["a red mug", "a blue chair"], seeds=2, methods=["vsd"], preset="tiny")
    assert rows == [Row("a red mug", "vsd", 2, 0.75, 1.0), Row("a blue chair", "vsd", 2, 0.125, 1.0)]
    assert quality.table(rows).splitlines()[-1] == "| all | vsd | 4 | 0.44 | 1.00 |"
    assert json.loads(quality.as_json(rows))["rows"][0]["family_agreement"] == 0.75
