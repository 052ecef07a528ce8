"""MLflow: everything arrives, once, however often it is sent; and nothing it does stops a run."""

import shutil

import numpy as np
import pytest

from tasks import machine, tracker
from tasks.stage import Stage
from tasks.tracker import SENT, Tracker


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory):
    """Made once: MLflow takes seconds to make its tables."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("mlflow") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def project(project, empty_database, monkeypatch):
    folder = project.state / "mlflow"
    folder.mkdir(parents=True)
    shutil.copy(empty_database, folder / "mlflow.db")
    monkeypatch.delenv("PROLIFIC_TRACKER")
    monkeypatch.setattr(machine, "set_up_torch", lambda threads, device: "cpu")
    return project


def body(stage):
    for step in range(1, 21):
        stage.progress(step, 20, loss=1 / step)
    stage.picture("views", np.zeros((3, 8, 8), np.float32), 20)
    (stage.output / "contact.png").write_bytes(b"picture")
    return {"quality": 0.5}


def run_stage(project, name="initialise"):
    Stage(project, name, "a-red-mug").run(body)


def runs(project) -> dict[str, object]:
    """All runs by name; each name once."""
    from mlflow import MlflowClient

    client = MlflowClient(tracker.uri(project))
    experiment = client.get_experiment_by_name(tracker.EXPERIMENT)
    found = client.search_runs([experiment.experiment_id])
    by_name = {run.info.run_name: run for run in found}
    assert len(by_name) == len(found)
    return by_name


def test_a_stage_arrives_once_however_often_it_is_sent(project):
    from mlflow import MlflowClient

    run_stage(project)
    for _ in range(3):
        tracker.sync(project, "a-red-mug", ["initialise"])
    # What a crash between a message and its receipt leads to: everything is sent again.
    client = MlflowClient(tracker.uri(project))
    client.set_tag(runs(project)["initialise"].info.run_id, SENT, "0")
    client.update_run(runs(project)["initialise"].info.run_id, status="RUNNING")
    tracker.sync(project, "a-red-mug", ["initialise"])

    found = runs(project)
    assert set(found) == {"a-red-mug", "initialise"}
    parent, stage = found["a-red-mug"], found["initialise"]
    assert stage.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert stage.info.status == "FINISHED" and stage.data.metrics["quality"] == 0.5
    assert parent.data.params["nerf.guidance.scale"] == "7.5" and parent.data.tags["prompt"] == "a red mug"
    levels = project.config(project.prompt("a-red-mug")).initialise.field.levels
    assert stage.data.params["field.levels"] == str(levels) and stage.data.tags["cached"] == "false"
    points = client.get_metric_history(stage.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(step, 1 / step) for step in (1, 5, 10, 15, 20)]
    pictures = client.list_artifacts(stage.info.run_id, "images")
    assert len(pictures) == 2 and all("views+step+20" in picture.path for picture in pictures)
    files = {file.path for file in client.list_artifacts(stage.info.run_id)}
    assert {"manifest.json", "measures.json", "contact.png"} <= files


def test_a_running_stage_is_followed_and_a_failed_one_is_marked(project):
    steps = []

    def stops(stage):
        for step in range(1, 11):
            stage.progress(step, 20, loss=1 / step)
            if step in (5, 10):
                follower.follow("initialise")
                steps.append(runs(project)["initialise"].data.metrics["loss"])
        raise RuntimeError("diverged")

    with Tracker(project, "a-red-mug") as follower:
        with pytest.raises(RuntimeError):
            Stage(project, "initialise", "a-red-mug").run(stops)
        follower.follow("initialise", failed=True)
    assert steps == [1 / 5, 1 / 10] and runs(project)["initialise"].info.status == "FAILED"


def test_a_cached_stage_appears_with_its_measures(project):
    run_stage(project)
    shutil.rmtree(project.state / "a-red-mug")  # as after `dvc pull` in another clone
    with Tracker(project, "a-red-mug") as follower:
        follower.follow("initialise", cached=True)
    stage = runs(project)["initialise"]
    assert stage.data.tags["cached"] == "true" and stage.data.metrics["quality"] == 0.5
    assert stage.info.status == "FINISHED"


def test_other_numbers_are_another_run(project, clone):
    first = Tracker(project, "a-red-mug").token
    clone.edit("params.yaml", "preview_every: 50", "preview_every: 51")
    assert Tracker(project, "a-red-mug").token == first
    clone.edit("params.yaml", "threads: 1", "threads: 3")
    assert Tracker(project, "a-red-mug").token != first


def test_a_server_that_is_away_costs_one_warning_and_its_records_arrive_later(project, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "1")
    run_stage(project)
    with Tracker(project, "a-red-mug") as follower:
        for _ in range(3):
            follower.follow("initialise")
        follower.summarise(quality=1.0)
    assert capsys.readouterr().err.count("is not reachable") == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracker.sync(project, "a-red-mug", ["initialise"])
    assert runs(project)["initialise"].data.metrics["quality"] == 0.5


def test_a_run_on_its_own_is_found_again_by_its_key(project, tmp_path):
    """Of a study: nothing was sent before its measures, and a second time it is the same run."""
    from mlflow import MlflowClient

    (tmp_path / "table.md").write_text("| a |")
    for value in (1.0, 2.0):
        tracker.remember(project, "study", "some key", {"steps": 3}, {"vsd 7.5, n = 1 kid": value}, [tmp_path / "table.md"])
    client = MlflowClient(tracker.uri(project))
    found = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    assert len(found) == 1 and found[0].data.metrics == {"vsd 7.5 n  1 kid": 2.0} and found[0].data.params == {"steps": "3"}
    assert [file.path for file in client.list_artifacts(found[0].info.run_id)] == ["table.md"]
