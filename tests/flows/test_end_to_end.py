"""A whole run of the command, with DVC, Prefect and MLflow, and with six real stages on a tiny random prior.

The values of the metrics are the subject of other tests.
"""

import json
import struct
from pathlib import Path

import pytest

from tasks.runtime.project import STAGES
from tests.conftest import Clone, copy_project
from tests.support import metrics_page, tiny_pipeline


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Clone in which one prompt was made, and the finished command."""
    root = copy_project(tmp_path_factory.mktemp("end to end") / "clone")
    tiny_pipeline.make(root / "prior")
    clone = Clone(root)
    clone.edit("params.yaml", "path: toybox", "path: prior")
    # The Toybox has no such word, so that its classifier is not used.
    done = clone.prolific("generate", "something", "--preset", "tiny", "--json", PROLIFIC_TRACKER="flow")
    assert done.returncode == 0, done.stderr
    return clone, done


def test_a_sentence_becomes_a_model(made):
    clone, done = made
    result = json.loads(done.stdout.splitlines()[-1])
    assert list(result["stages"]) == list(STAGES)
    assert result["id"] == "something-tiny" and 100 < result["peak_memory_mb"] < 3000
    assert 0 < result["metrics"]["alignment"] <= 1 or -1 <= result["metrics"]["alignment"] < 0
    with open(result["glb"], "rb") as file:
        magic, version, length = struct.unpack("<4sII", file.read(12))
        assert (magic, version, length) == (b"glTF", 2, file.seek(0, 2))
    import trimesh

    scene = trimesh.load(result["glb"])
    assert sum(len(mesh.faces) for mesh in scene.geometry.values()) > 20
    import imageio.v3 as imageio

    frames = imageio.imread(result["turntable"])
    assert frames.shape[0] == 8 and frames.shape[-1] == 3
    page = Path(result["report"]).read_text()
    assert page.count("<img") >= 4 and "<video" in page and "<svg" in page


def test_its_curves_images_and_files_are_in_mlflow(made):
    clone, _ = made
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{clone.root / '.state' / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("prolific")
    runs = {run.info.run_name: run for run in client.search_runs([experiment.experiment_id])}
    assert set(runs) == {"something-tiny", *STAGES}
    assert {run.info.status for run in runs.values()} == {"FINISHED"}
    logged = {name for run in runs.values() for name in run.data.metrics}
    assert (
        logged <= metrics_page.documented()
        and {"loss_normal_consistency", "time_fraction_score_model", "system/memory_mb"} <= logged
    )
    parent = runs.pop("something-tiny")
    assert {run.data.tags["mlflow.parentRunId"] for run in runs.values()} == {parent.info.run_id}
    assert {"mesh.glb", "turntable.mp4", "something-tiny.html"} == {
        file.path for file in client.list_artifacts(parent.info.run_id)
    }
    measured = json.loads(made[1].stdout.splitlines()[-1])["metrics"] | {"faces": runs["export"].data.metrics["faces"]}
    assert {name: parent.data.metrics[name] for name in measured} == pytest.approx(measured)
    assert parent.data.metrics["seconds"] == pytest.approx(sum(run.data.metrics["seconds"] for run in runs.values()))
    assert parent.data.metrics["peak_memory_mb"] == max(run.data.metrics["peak_memory_mb"] for run in runs.values())
    assert parent.data.tags["device"] == "cpu" and len(parent.data.tags["dvc_lock"]) == 16
    assert len({run.data.tags["dvc_lock"] for run in [parent, *runs.values()]}) == 7
    (dataset,) = parent.inputs.dataset_inputs
    assert json.loads(dataset.dataset.profile)["prompts"][0]["text"] == "something"
    for stage in ("nerf", "geometry", "texture"):
        assert len(client.get_metric_history(runs[stage].info.run_id, "loss")) >= 2
        assert client.list_artifacts(runs[stage].info.run_id, "images")
        assert runs[stage].data.metrics["seconds"] > 0
    assert "turntable.mp4" in {file.path for file in client.list_artifacts(runs["nerf"].info.run_id)}


def test_a_second_time_nothing_runs(made):
    clone, _ = made
    done = clone.prolific("generate", "something", "--preset", "tiny", "--json", PROLIFIC_TRACKER="off")
    assert done.returncode == 0, done.stderr
    stages = json.loads(done.stdout.splitlines()[-1])["stages"]
    assert all(stage["cached"] for stage in stages.values())
