"""Tracking with MLflow: everything arrives exactly once, and no failure of MLflow stops a run."""

import contextlib
import json
import shutil
import subprocess

import numpy as np
import pytest

from flows.prompt_store import create, sets
from flows.prompt_store.create import PromptRequest
from tasks.runtime import machine, records
from tasks.runtime.project import Project
from tasks.runtime.stage import Stage
from tasks.tracking import tracker
from tasks.tracking.prompt_runs import EXPERIMENT, PromptRuns
from tasks.tracking.stage_run import SENT
from tasks.tracking.tracker import Tracker


@pytest.fixture
def project(project, empty_database, monkeypatch):
    return track(project, empty_database, monkeypatch)


def track(project: Project, empty_database, monkeypatch) -> Project:
    """Switch tracking on for a project, into a database of its own."""
    folder = project.state / "mlflow"
    folder.mkdir(parents=True)
    shutil.copy(empty_database, folder / "mlflow.db")
    monkeypatch.delenv("PROLIFIC_TRACKER")
    monkeypatch.setattr(machine, "set_up_torch", lambda *_: "cpu")
    return project


def body(stage):
    for step in range(1, 21):
        stage.progress(step, 20, loss=1 / step)
    stage.image("views", np.zeros((3, 8, 8), np.float32), 20)
    (stage.output / "contact.png").write_bytes(b"image")
    return {"quality": 0.5}


def run_stage(project, name="initialise"):
    Stage(project, name, "a-red-mug").run(body)


def runs(project, experiment: str = EXPERIMENT) -> dict[str, object]:
    """Return the runs of an experiment by name, and check that no name occurs twice."""
    from mlflow import MlflowClient

    client = MlflowClient(tracker.uri(project))
    experiment = client.get_experiment_by_name(experiment)
    found = client.search_runs([experiment.experiment_id])
    by_name = {run.info.run_name: run for run in found}
    assert len(by_name) == len(found)
    return by_name


def test_a_stage_arrives_once_however_often_it_is_sent(project):
    from mlflow import MlflowClient

    run_stage(project)
    for _ in range(3):
        tracker.sync(project, "a-red-mug", ["initialise"])
    # After a crash during a transfer everything is sent again.
    client = MlflowClient(tracker.uri(project))
    client.set_tag(runs(project)["initialise"].info.run_id, SENT, "0")
    client.update_run(runs(project)["initialise"].info.run_id, status="RUNNING")
    tracker.sync(project, "a-red-mug", ["initialise"])

    found = runs(project)
    assert set(found) == {"a-red-mug", "initialise"}
    parent, stage = found["a-red-mug"], found["initialise"]
    assert stage.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert stage.info.status == "FINISHED" and stage.data.metrics["quality"] == 0.5
    assert parent.data.params["nerf.guidance.scale"] == "4.0" and parent.data.tags["prompt"] == "a red mug"
    levels = project.config(project.prompt("a-red-mug")).initialise.field.levels
    assert stage.data.params["field.levels"] == str(levels) and stage.data.tags["cached"] == "false"
    points = client.get_metric_history(stage.info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [(step, 1 / step) for step in (1, 5, 10, 15, 20)]
    images = client.list_artifacts(stage.info.run_id, "images")
    assert len(images) == 2 and all("views+step+20" in image.path for image in images)
    files = {file.path for file in client.list_artifacts(stage.info.run_id)}
    assert {"manifest.json", "metrics.json", "contact.png"} <= files


def test_the_link_of_a_run_opens_its_classic_view(project):
    with tracker.Tracker(project, "a-red-mug") as runs:
        assert runs.address() is None
        run = runs.parent()
        assert str(runs.address()).endswith(f"/runs/{run}?workflowType=machine_learning")


def test_the_run_of_a_worker_that_was_lost_with_its_records_is_replaced(project):
    from mlflow import MlflowClient

    def dies(stage):
        for step in range(1, 11):
            stage.progress(step, 20, loss=1 / step)
        raise RuntimeError("the power is cut")

    with Tracker(project, "a-red-mug") as run:
        with pytest.raises(RuntimeError):
            Stage(project, "initialise", "a-red-mug").run(dies)
        run.sync_stage("initialise")
    lost = runs(project)["initialise"]
    assert lost.info.status == "RUNNING"
    shutil.rmtree(project.state / "a-red-mug")
    run_stage(project)
    with Tracker(project, "a-red-mug") as run:
        run.sync_stage("initialise")
        run.finish({}, [])
    found = runs(project)  # checks that no name occurs twice
    assert found["initialise"].info.run_id != lost.info.run_id
    points = MlflowClient(tracker.uri(project)).get_metric_history(found["initialise"].info.run_id, "loss")
    assert [point.step for point in points] == [1, 5, 10, 15, 20]


@pytest.mark.parametrize("edited", [False, True])
def test_a_finished_stage_of_a_worker_that_was_lost_with_its_results_is_replaced(project, edited):
    """Another worker makes it again at the same revision. After an edit, both runs stay: their results may differ."""
    commit = ["git", "-C", str(project.root), "-c", "user.name=x", "-c", "user.email=x@x", "commit", "--quiet"]
    subprocess.run(["git", "-C", str(project.root), "add", "--all"], check=True)
    subprocess.run([*commit, "--message", "x"], check=True)
    run_stage(project)
    with Tracker(project, "a-red-mug") as run:
        run.sync_stage("initialise")
    lost = runs(project)["initialise"]
    assert lost.info.status == "FINISHED"
    shutil.rmtree(project.state / "a-red-mug")
    if edited:
        (project.root / "params.yaml").write_text((project.root / "params.yaml").read_text() + "# edited")
    run_stage(project)
    for _ in range(2):
        with Tracker(project, "a-red-mug") as run:
            run.sync_stage("initialise")
            run.finish({}, [])
    if edited:
        with pytest.raises(AssertionError):
            runs(project)  # the name occurs twice
    else:
        assert runs(project)["initialise"].info.run_id != lost.info.run_id


def test_a_running_stage_is_synced_and_a_failed_one_is_marked(project):
    steps = []

    def stops(stage):
        for step in range(1, 11):
            stage.progress(step, 20, loss=1 / step)
            if step in (5, 10):
                run.sync_stage("initialise")
                steps.append(runs(project)["initialise"].data.metrics["loss"])
        raise RuntimeError("diverged")

    with Tracker(project, "a-red-mug") as run:
        with pytest.raises(RuntimeError):
            Stage(project, "initialise", "a-red-mug").run(stops)
        run.sync_stage("initialise", failed=True)
    assert steps == [1 / 5, 1 / 10] and runs(project)["initialise"].info.status == "FAILED"


def test_an_output_that_dvc_moves_into_its_cache_is_not_read(project, capsys):
    run_stage(project)
    output = project.output("a-red-mug", "initialise")
    moved = output.rename(output.with_name("moved"))
    output.mkdir()
    (output / "manifest.json").symlink_to(moved / "manifest.json")
    (output / "curve.json").symlink_to("moved away")  # the folder has an entry whose file is gone
    with Tracker(project, "a-red-mug") as run:
        run.sync_stage("initialise", running=True)
        assert runs(project)["initialise"].info.status == "RUNNING"
        shutil.rmtree(output)
        moved.rename(output)
        run.sync_stage("initialise")
    assert capsys.readouterr().err == ""
    stage = runs(project)["initialise"]
    assert stage.info.status == "FINISHED" and stage.data.metrics["quality"] == 0.5
    assert stage.data.metrics["loss"] == 1 / 20


def test_a_cached_stage_appears_with_its_metrics(project):
    run_stage(project)
    shutil.rmtree(project.state / "a-red-mug")  # as after `dvc pull` in another clone
    with Tracker(project, "a-red-mug") as run:
        run.sync_stage("initialise", cached=True)
    stage = runs(project)["initialise"]
    assert stage.data.tags["cached"] == "true" and stage.data.metrics["quality"] == 0.5
    assert stage.info.status == "FINISHED"


def sync_all(project, group=None, cached=True):
    """Send the stage that these tests make and metrics of its parent run, as a flow does."""
    with Tracker(project, PromptRuns(project.resolve("a-red-mug"), group)) as run:
        run.sync_stage("initialise", cached=cached)
        run.finish({"quality": 0.25}, [project.output("a-red-mug", "initialise") / "contact.png"])


def test_a_sweep_has_its_own_experiment_and_dataset_and_makes_no_second_copy(project, clone):
    create.put(project, create.plan(project, PromptRequest("a blue chair", seed=3)))
    (project.root / "prompts" / "toys.txt").write_text("a-red-mug\na-blue-chair-s3\n")
    run_stage(project)
    sync_all(project, cached=False)
    toys = sets.group(project, ["toys"])
    for _ in range(2):  # two nights
        sync_all(project, toys)
    alone, swept = runs(project), runs(project, "toys")
    assert set(alone) == set(swept) == {"a-red-mug", "initialise"}
    assert [found["initialise"].data.tags["cached"] for found in (alone, swept)] == ["false", "true"]
    assert [found["a-red-mug"].data.tags["cached"] for found in (alone, swept)] == ["false", "true"]
    assert (
        swept["initialise"].data.metrics == alone["initialise"].data.metrics
        and alone["initialise"].data.metrics["loss"] == 1 / 20
    )
    (dataset,) = swept["a-red-mug"].inputs.dataset_inputs
    profile = json.loads(dataset.dataset.profile)
    assert dataset.dataset.name == "toys" and profile["num_rows"] == 2
    assert [(row["text"], row["seed"]) for row in profile["prompts"]] == [("a red mug", 0), ("a blue chair", 3)]

    clone.edit("params.yaml", "threads: 1", "threads: 3")  # changed: another run
    sync_all(project, toys)
    from mlflow import MlflowClient

    client = MlflowClient(tracker.uri(project))
    found = client.search_runs([swept["initialise"].info.experiment_id], "tags.stage = 'initialise'")
    assert len(found) == 2 and {run.data.tags["cached"] for run in found} == {"true"}


def test_two_prompts_may_log_their_dataset_at_once(project, monkeypatch, capsys):
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    real, calls = MlflowClient.log_inputs, []

    def log_inputs(*arguments):
        calls.append(1)
        if len(calls) == 1:
            raise MlflowException("UNIQUE constraint failed")  # MLflow's error for the second of two concurrent calls
        real(*arguments)

    monkeypatch.setattr(MlflowClient, "log_inputs", log_inputs)
    run_stage(project)
    sync_all(project)
    assert len(runs(project)["a-red-mug"].inputs.dataset_inputs) == 1 and not capsys.readouterr().err


def test_the_experiment_is_named_after_what_a_sweep_names(project):
    (project.root / "prompts" / "toys.txt").write_text("a-red-mug\n")
    named = {
        names: sets.group(project, list(names)).experiment for names in [(), ("toys",), ("a-red-*",), ("a-red-mug",)]
    }
    assert named == {(): "every prompt", ("toys",): "toys", ("a-red-*",): "a-red-*", ("a-red-mug",): EXPERIMENT}
    (project.root / "prompts" / "toys.txt").write_text("gone\n")  # edited while a sweep runs
    assert sets.group(project, ["toys"]).prompts == []


def test_a_parent_has_its_own_metrics_files_and_revisions(project):
    from mlflow import MlflowClient

    def git(*arguments):
        return subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b", *arguments],
            cwd=project.root,
            check=True,
            capture_output=True,
        )

    git("add", "params.yaml", "tasks")
    git("commit", "-qm", "first")
    commit = git("rev-parse", "--short=12", "HEAD").stdout.decode().strip()
    run_stage(project)
    lock = project.prompt_folder("a-red-mug") / "dvc.lock"
    lock.write_text("schema: '2.0'\nstages:\n  initialise:\n    cmd: x\n")
    sync_all(project, cached=False)
    found = runs(project)
    parent, stage = found["a-red-mug"], found["initialise"]
    tags = {name: parent.data.tags[name] for name in ("revision", "device", "cached", "method")}
    assert tags == {"revision": commit, "device": "cpu", "cached": "false", "method": "vsd"}
    assert {stage.data.tags[name] for name in ("revision", "device")} == {commit, "cpu"}
    assert len(parent.data.tags["dvc_lock"]) == len(stage.data.tags["dvc_lock"]) == 16
    assert parent.data.metrics["quality"] == 0.25 and stage.data.metrics["quality"] == 0.5
    assert {"seconds", "peak_memory_mb"} <= set(parent.data.metrics)
    assert parent.data.metrics["seconds"] == stage.data.metrics["seconds"]
    client = MlflowClient(tracker.uri(project))
    assert [file.path for file in client.list_artifacts(parent.info.run_id)] == ["contact.png"]
    memory = client.get_metric_history(stage.info.run_id, "system/memory_mb")
    assert [point.step for point in memory] == [1, 5, 10, 15, 20] and all(10 < point.value < 10_000 for point in memory)

    # With another revision and lock, the parent has those by which it was found up to date.
    (project.root / "params.yaml").write_text((project.root / "params.yaml").read_text() + "# more\n")
    lock.write_text("schema: '2.0'\nstages:\n  initialise:\n    cmd: y\n")
    sync_all(project)
    again = runs(project)
    assert (
        again["a-red-mug"].data.tags["revision"] == f"{commit}-dirty"
        and again["initialise"].data.tags["revision"] == commit
    )
    assert again["a-red-mug"].data.tags["dvc_lock"] != parent.data.tags["dvc_lock"]
    assert again["initialise"].data.tags["dvc_lock"] != stage.data.tags["dvc_lock"]
    assert again["a-red-mug"].info.end_time == parent.info.end_time  # the time of its first end


def test_a_stage_that_ran_without_a_server_is_not_cached(project):
    run_stage(project)
    sync_all(project, cached=True)  # the next day
    stage = runs(project)["initialise"]
    assert stage.data.tags["cached"] == "false"
    start = records.first(project.stage_state("a-red-mug", "initialise") / "records.jsonl")
    assert stage.info.start_time == int(start["time"] * 1000) <= stage.info.end_time


def test_an_experiment_deleted_in_the_ui_comes_back(project):
    from mlflow import MlflowClient

    run_stage(project)
    sync_all(project)
    client = MlflowClient(tracker.uri(project))
    client.delete_experiment(client.get_experiment_by_name(EXPERIMENT).experiment_id)
    sync_all(project)
    assert runs(project)["initialise"].data.metrics["quality"] == 0.5


def test_other_parameters_are_another_run(project, clone):
    first = Tracker(project, "a-red-mug").token
    clone.edit("params.yaml", "preview_every: 50", "preview_every: 51")
    assert Tracker(project, "a-red-mug").token == first
    clone.edit("params.yaml", "threads: 1", "threads: 3")
    assert Tracker(project, "a-red-mug").token != first


def test_an_unreachable_server_causes_one_warning_and_records_arrive_later(project, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    run_stage(project)
    with Tracker(project, "a-red-mug") as run:
        for _ in range(3):
            run.sync_stage("initialise")
        run.finish({"quality": 1.0}, [])
    assert capsys.readouterr().err.count("is not reachable") == 1
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    tracker.sync(project, "a-red-mug", ["initialise"])
    assert runs(project)["initialise"].data.metrics["quality"] == 0.5


def test_all_runs_made_without_a_server_arrive_although_the_last_one_overwrote_them(project, clone, monkeypatch):
    """They arrive once, sent by the run of another prompt, although the first attempt is interrupted."""
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    for seed, quality in ((0, 0.125), (1, 0.375)):
        run_stage(project)
        for cached in (False, True):  # synced twice
            with Tracker(project, "a-red-mug") as run:
                run.sync_stage("initialise", cached=cached)
                run.finish({"quality": quality}, [project.output("a-red-mug", "initialise") / "contact.png"])
        clone.edit("prompts/a-red-mug/prompt.yaml", f"seed: {seed}", f"seed: {seed + 1}")
    assert len(list((project.state / "mlflow" / "outbox").glob("[!.]*"))) == 2
    create.put(project, create.plan(project, PromptRequest("a blue chair")))

    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    real = MlflowClient.log_artifact
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "log_artifact", lambda *a: real(*a) if "contact" in str(a[2]) else 1 / 0)
        tracker.sync(project, "a-blue-chair", ["initialise"])
        assert len(list((project.state / "mlflow" / "outbox").glob("[!.]*"))) == 2
    tracker.sync(project, "a-blue-chair", ["initialise"])
    assert not list((project.state / "mlflow" / "outbox").glob("[!.]*"))

    client = MlflowClient(tracker.uri(project))
    experiment = client.get_experiment_by_name(EXPERIMENT).experiment_id
    parents = client.search_runs([experiment], "tags.mlflow.runName = 'a-red-mug'")
    assert {(run.data.params["seed"], run.data.metrics["quality"], run.info.status) for run in parents} == {
        ("0", 0.125, "FINISHED"),
        ("1", 0.375, "FINISHED"),
    }
    made = client.search_runs([experiment], "tags.stage = 'initialise'")
    assert {run.data.tags["mlflow.parentRunId"] for run in made} == {run.info.run_id for run in parents} and len(
        made
    ) == 2
    for run in made:
        assert [point.step for point in client.get_metric_history(run.info.run_id, "loss")] == [1, 5, 10, 15, 20]
        assert (
            run.info.status == "FINISHED" and run.data.tags["cached"] == "false" and run.data.metrics["quality"] == 0.5
        )
        assert {"contact.png", "manifest.json"} <= {file.path for file in client.list_artifacts(run.info.run_id)}
    assert len({run.data.tags["prolific.attempt"] for run in made}) == 2


def test_a_run_without_stages_is_found_again_by_its_key(project, tmp_path):
    """A second call with the same key updates the run of the first one."""
    from mlflow import MlflowClient

    (tmp_path / "table.md").write_text("| a |")
    for value in (2.0, 1.0):
        tracker.remember(
            project, "study", "some key", {"steps": 3}, {"vsd 7.5, n = 1 kid": value}, [tmp_path / "table.md"]
        )
    client = MlflowClient(tracker.uri(project))
    found = client.search_runs([client.get_experiment_by_name("study").experiment_id])
    assert (
        len(found) == 1
        and found[0].data.metrics == {"vsd 7.5 n  1 kid": 1.0}
        and found[0].data.params == {"steps": "3"}
    )
    assert [file.path for file in client.list_artifacts(found[0].info.run_id)] == ["table.md"]


def test_the_repeated_steps_of_a_resumed_run_are_sent_once(project):
    from mlflow import MlflowClient

    def first(stage):
        (stage.checkpoint / "state").write_text("5")
        for step in range(1, 11):
            stage.progress(step, 20, loss=1 / step)
        raise RuntimeError("killed")

    def second(stage):
        (stage.checkpoint / "state").unlink()
        for step in range(6, 21):
            stage.progress(step, 20, loss=1 / step)
        return {"loss": 0.01}

    for run in (first, second):
        with contextlib.suppress(RuntimeError):
            Stage(project, "initialise", "a-red-mug").run(run)
        tracker.sync(project, "a-red-mug", ["initialise"])  # each time with a tracker that knows nothing
    client = MlflowClient(tracker.uri(project))
    points = client.get_metric_history(runs(project)["initialise"].info.run_id, "loss")
    assert [(point.step, point.value) for point in points] == [
        *((step, 1 / step) for step in (1, 5, 10, 15, 20)),
        (20, 0.01),
    ]


def test_a_copied_project_writes_to_its_own_files(project, tmp_path):
    from mlflow import MlflowClient

    run_stage(project)
    sync_all(project, cached=False)
    before = {path for path in project.root.rglob("*") if path.is_file()}
    copy = Project(shutil.copytree(project.root, tmp_path / "a copy's folder"))
    Stage(copy, "initialise", "a-red-mug").run(lambda stage: body(stage) | {"quality": 0.75})
    sync_all(copy, cached=False)
    assert {path for path in project.root.rglob("*") if path.is_file()} == before
    client = MlflowClient(tracker.uri(copy))
    (experiment,) = [one for one in client.search_experiments() if one.name == EXPERIMENT]
    found = client.search_runs([experiment.experiment_id])
    assert len(found) == 3 and {run.data.tags["mlflow.runName"] for run in found} == {"a-red-mug", "initialise"}
    for run in found:
        assert run.info.artifact_uri.startswith(tracker.artifacts(copy))
        assert client.list_artifacts(run.info.run_id)


def test_only_what_mlflow_has_received_completely_is_not_sent_again(project, monkeypatch):
    run_stage(project)
    page = project.root / "page.html"
    page.write_text("first")

    def send(quality: float = 0.5, failing: bool = False) -> Tracker:
        with contextlib.suppress(ValueError), Tracker(project, "a-red-mug") as run:
            run.sync_stage("initialise")
            run.finish({"quality": quality}, [page])
            if failing:
                raise ValueError
        return run

    def delivered(quality: float = 0.5) -> str | None:
        run = Tracker(project, "a-red-mug")
        return run.address() if run.is_delivered(["initialise"], {"quality": quality}, [page]) else None

    assert not delivered()
    send(failing=True)
    assert not delivered()
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        send(quality=0.7)
        assert not delivered(0.7)
    first = send()
    assert delivered() == first.address() and not delivered(0.7)
    page.write_text("second")
    assert not delivered()
    assert send() and delivered()
    run_stage(project)  # another computation of the same stage
    assert not delivered()
    assert send() and delivered()
    first.client.delete_run(first._parent)
    assert not delivered()
    assert send().address() == delivered() != first.address()
    with monkeypatch.context() as patch:
        patch.setattr(tracker.outbox, "is_empty", lambda project: False)
        assert not delivered()  # the pending run must be sent
    shutil.rmtree(project.state / "mlflow")
    assert not delivered()
