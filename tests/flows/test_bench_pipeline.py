"""Tests of `prolific bench pipeline` with stages that take almost no time."""

import json

import pytest

from flows.benchmarks import pipeline as bench_pipeline
from flows.benchmarks import scratch_project
from flows.benchmarks.results import Goal, as_json, goal_table, table
from flows.cli.bench import PipelineBenchmark
from prolific_core.errors import ProlificError
from tasks.runtime.project import STAGES, Project


def test_every_metric_has_a_goal_and_a_benchmark():
    found = [name for names in bench_pipeline.METRICS.values() for name in names]
    assert sorted(found) == sorted(bench_pipeline.GOALS) and list(bench_pipeline.METRICS) == list(PipelineBenchmark)


def test_goals_that_are_missed_are_marked(monkeypatch):
    table = bench_pipeline.table({"noop_10_s": 3.21, "rerun_s": 15.2, "sweep_efficiency": 0.8}).splitlines()[2:]
    missed = {line.split("|")[2].strip(): "not reached" in line for line in table}
    assert missed == {"15.2": True, "3.21": False, "0.8": True}
    monkeypatch.setattr(bench_pipeline, "noop", lambda project, count: 3.21049)
    numbers = bench_pipeline.bench(Project.find(), ["noop_10"])
    assert json.loads(as_json(numbers)) == {"noop_10_s": 3.21}


def test_a_goal_is_a_bound_from_above_or_from_below():
    assert Goal(2).reached(2) and not Goal(2).reached(1.9) and str(Goal(2)) == ">= 2"
    assert Goal(None, 2).reached(2) and not Goal(None, 2).reached(2.1) and str(Goal(None, 0.5)) == "<= 0.5"
    between = Goal(0.9, 1.1)
    assert between.reached(1) and not between.reached(0.8) and not between.reached(1.2) and str(between) == "0.9 to 1.1"
    lines = goal_table({"speed": None, "other": 1.0}, {"speed": Goal(2, None, "how fast"), "unknown": Goal(1)})
    assert len(lines.splitlines()) == 3 and "| how fast | not measured | >= 2   |" in lines
    assert "not reached" not in lines
    assert table(["a"], [[0.123456], [None], [7]]).splitlines()[2:] == ["| 0.123 |", "|       |", "| 7     |"]


def test_nothing_is_left_to_do_where_no_op_is_timed(monkeypatch):
    """The scratch copy is removed afterwards, and holds none of this project's own prompts."""
    ran, roots = [], []
    run = bench_pipeline.run

    def watched(root, *command, **settings):
        run(root, *command, **settings)
        if command[:2] == ("tasks.dvc_pipeline.cli", "repro"):
            roots.append(root)
            ran.append(sorted(path.stat().st_mtime_ns for path in root.glob("runs/*/*/manifest.json")))

    monkeypatch.setattr(bench_pipeline, "run", watched)
    assert bench_pipeline.noop(Project.find(), 2) > 0
    assert len(ran) == 3 and ran[0] == ran[1] == ran[2] and len(ran[0]) == 2 * len(STAGES)
    assert not roots[0].exists()


def test_a_command_that_fails_in_the_copy_is_one_line(tmp_path):
    root = scratch_project.copy(Project.find().root, tmp_path / "clone")
    with pytest.raises(ProlificError, match="`tasks nerf nothing` failed in the scratch copy: .*no prompt 'nothing'"):
        bench_pipeline.run(root, "tasks", "nerf", "nothing")
