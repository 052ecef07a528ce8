"""`prolific bench pipeline`, with stages that take no time or next to none."""

import json

import pytest

from flows.benchmarks import pipeline as bench_pipeline
from flows.benchmarks import scratch_project
from flows.cli.bench import PIPELINE
from prolific_core.errors import ProlificError
from tasks.runtime.project import STAGES, Project


def test_every_number_has_a_goal_and_a_measure():
    found = [name for names in bench_pipeline.METRICS.values() for name in names]
    assert sorted(found) == sorted(bench_pipeline.GOALS) and tuple(bench_pipeline.METRICS) == PIPELINE


def test_what_falls_short_is_said():
    table = bench_pipeline.table({"noop_10_s": 3.21, "rerun_s": 15.2, "sweep_efficiency": 0.8}).splitlines()[2:]
    assert ["not reached" in line for line in table] == [False, True, True] and "| 3.21 |" in table[0]
    assert json.loads(bench_pipeline.as_json({"noop_10_s": 3.21049})) == {"noop_10_s": 3.21}


def test_nothing_is_left_to_do_where_no_op_is_timed(monkeypatch):
    """And the scratch copy is gone after it, with no word of this project's own prompts."""
    ran, roots = [], []
    run = bench_pipeline._run

    def watched(root, *command, **settings):
        run(root, *command, **settings)
        if command[:2] == ("tasks.dvc_pipeline.cli", "repro"):
            roots.append(root)
            ran.append(sorted(path.stat().st_mtime_ns for path in root.glob("runs/*/*/manifest.json")))

    monkeypatch.setattr(bench_pipeline, "_run", watched)
    assert bench_pipeline.noop(Project.find(), 2) > 0
    assert len(ran) == 3 and ran[0] == ran[1] == ran[2] and len(ran[0]) == 2 * len(STAGES)
    assert not roots[0].exists()


def test_a_command_that_fails_in_the_copy_is_one_line(tmp_path):
    root = scratch_project.copy(Project.find().root, tmp_path / "clone")
    with pytest.raises(
        ProlificError, match="`tasks.runtime.stage nerf nothing` failed in the scratch copy: .*no prompt 'nothing'"
    ):
        bench_pipeline._run(root, "tasks.runtime.stage", "nerf", "nothing")
