"""Every call to MLflow fails once, or from then on, and each record still arrives exactly once."""

import pytest

from tasks.tracking import tracker
from tasks.tracking.tracker import Tracker
from tests.tasks.test_tracker import run_stage, track

pytestmark = pytest.mark.faults

CALLS = (
    "create_experiment",
    "create_run",
    "get_experiment_by_name",
    "get_run",
    "log_artifact",
    "log_artifacts",
    "log_batch",
    "log_image",
    "log_inputs",
    "search_experiments",
    "search_runs",
    "set_tag",
    "set_terminated",
    "update_run",
)


@pytest.fixture
def project(project, empty_database, monkeypatch):
    return track(project, empty_database, monkeypatch)


class Fault:
    """Makes the n-th call to MLflow fail before it has an effect or after it, and all later ones too if `lasting`."""

    def __init__(self, monkeypatch, n: int, lasting: bool, after: bool):
        from mlflow import MlflowClient

        self.left, self.lasting, self.after = n, lasting, after
        for name in CALLS:
            monkeypatch.setattr(MlflowClient, name, self.counted(getattr(MlflowClient, name)))

    def counted(self, function):
        def call(*args, **kwargs):
            self.left -= 1
            fails = self.left == 0 or (self.lasting and self.left < 0)
            result = function(*args, **kwargs) if self.after or not fails else None
            if fails:
                raise ConnectionError("the connection was lost")
            return result

        return call


@pytest.mark.parametrize("after", [False, True], ids=["lost-request", "lost-answer"])
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "lasting"])
def test_every_record_arrives_once(project, monkeypatch, lasting, after):
    from mlflow import MlflowClient

    n, reached = 0, True
    while reached:
        n += 1
        assert n < 200, "tracking never passes"
        run_stage(project)  # a new attempt, hence a new run in MLflow
        with monkeypatch.context() as patched:
            fault = Fault(patched, n, lasting, after)
            with Tracker(project, "a-red-mug") as run:
                run.sync_stage("initialise")
                run.finish({"quality": 1.0}, [project.output("a-red-mug", "initialise") / "contact.png"])
            reached = fault.left <= 0
        tracker.sync(project, "a-red-mug", ["initialise"])
        client = MlflowClient(tracker.uri(project))
        (experiment,) = [one for one in client.search_experiments() if one.name != "Default"]
        made = client.search_runs([experiment.experiment_id], "tags.stage = 'initialise'")
        assert len(made) == n
        for stage in made:
            points = client.get_metric_history(stage.info.run_id, "loss")
            assert [point.step for point in points] == [1, 5, 10, 15, 20], n
            assert stage.info.status == "FINISHED" and stage.data.metrics["quality"] == 0.5
        assert len(client.search_runs([experiment.experiment_id])) == n + 1  # and one parent
    assert n > 10
