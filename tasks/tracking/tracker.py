"""MLflow remembers every run: a parent run per prompt (or prior) and configuration, a nested run per stage.

Everything is read from what a stage left on disk (its records, its output), never from the stage
itself, so that it can be sent at any time, again and again: a run is looked up by a tag that says
what it is, points carry their own times, and pictures deterministic names. Nothing here may fail a
run: a tracker that is away costs one warning, and what was not sent is put aside (tasks/tracking/outbox.py) and
sent with whatever is sent next.
"""

import fcntl
import hashlib
import importlib
import json
import os
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import yaml

from tasks.runtime import machine
from tasks.runtime.project import Project
from tasks.runtime.revision import revision
from tasks.tracking import outbox
from tasks.tracking.prompt_runs import PromptRuns
from tasks.tracking.stage_run import FACTS, StageRun, log

TOKEN = "prolific.token"
WHOLE = ""  # among the stages of a lock


def uri(project: Project) -> str:
    """$MLFLOW_TRACKING_URI, else an SQLite file in .state/ (absolute: the default follows the folder one is in)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.state / 'mlflow' / 'mlflow.db'}"


def prepare() -> None:
    """Import MLflow, two seconds of it, in a thread: while a Prefect server comes up, or DVC is asked what there is to do."""
    if os.environ.get("PROLIFIC_TRACKER") != "off":
        _settings()
        module = "mlflow" if os.environ.get("MLFLOW_TRACKING_URI") else "mlflow.store.tracking.sqlalchemy_store"
        threading.Thread(target=importlib.import_module, args=(module,)).start()


def _settings() -> None:
    """What MLflow reads when it is imported."""
    machine.disable_telemetry()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")


def sync(project: Project, subject, stages: list[str]) -> None:
    """Send what the stages of a prompt's id (or another subject) recorded; a warning if that cannot be done."""
    with Tracker(project, subject) as tracker:
        for stage in stages:
            tracker.follow(stage)
        if isinstance(tracker.subject, PromptRuns) and "evaluate" in stages:  # the last one
            tracker.finish(tracker.subject.metrics, tracker.subject.files)


def remember(project: Project, experiment: str, key: str, parameters: dict, values: dict, files: list[Path]) -> None:
    """One run on its own, found again by its key: parameters, metrics, files. A warning if that cannot be done."""
    runs = SimpleNamespace(
        experiment=experiment, name=experiment, identity=[experiment, key], tags={}, parameters=parameters
    )
    with Tracker(project, runs) as tracker:
        tracker.finish({name.replace(",", "").replace("=", ""): value for name, value in values.items()}, files)


class Tracker:
    """One subject's runs. `follow(stage)` sends what is new; call it while a stage runs and after.

    The subject is a prompt's id, or whatever has the attributes of `PromptRuns` (some may be missing
    where there are no stages).
    """

    def __init__(self, project: Project, subject):
        self.project = project
        self.subject = PromptRuns(project, subject) if isinstance(subject, str) else subject
        identity = json.dumps(self.subject.identity, sort_keys=True)
        self.token = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.client = None
        self._off = os.environ.get("PROLIFIC_TRACKER") == "off"
        self._lost = False  # the server, on the way
        self._parent: str | None = None
        self._status: str | None = None
        self._stages: dict[str, StageRun] = {}
        self._followed: dict[str, dict] = {}
        self._finished: dict | None = None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, error: type | None, *_) -> None:
        failed = error is not None
        if self._parent:
            self._guarded(lambda: self._end(failed))
        if self._lost:
            try:
                outbox.keep(self.project, self.token, self.subject, self._followed, self._finished, failed)
            except Exception as trouble:  # a full disk, most likely
                print(f"prolific: what MLflow missed could not be kept ({trouble})", file=sys.stderr)

    def follow(self, stage: str, cached: bool = False, failed: bool = False) -> None:
        """Send a stage's new records; once it ended, its metrics and files too. cached: DVC found nothing to do."""
        self._followed[stage] = {"cached": cached, "failed": failed}
        self._guarded(lambda: self._follow(stage, cached, failed))

    def finish(self, metrics: dict, files: list[Path]) -> None:
        """The subject's own metrics and final files on the parent run, and of which code and lock all is."""
        if self._off and not self._lost:
            return
        origin = {"revision": revision(self.project.root), "locks": self._locks()}
        self._finished = {"metrics": metrics, "files": files, "origin": origin}
        self._guarded(lambda: self._finish(**self._finished))

    def address(self, port: int = 5000) -> str | None:
        """The parent run's page in the UI that `prolific ui` opens."""
        if not self._parent:
            return None
        return f"http://127.0.0.1:{port}/#/experiments/{self._experiment}/runs/{self._parent}"

    def parent(self) -> str:
        """The subject's run, found or made."""
        if self._parent is None:
            if self.client is None:
                self._connect()
                self._send_kept()
            self._experiment = self._find_experiment()
            run = self.find(self.token) or self.make(
                self.token, {"mlflow.runName": self.subject.name, **self.subject.tags}
            )
            self.parameters(run, self.subject.parameters)
            if not run.inputs.dataset_inputs and getattr(self.subject, "prompts", None):
                self._dataset(run.info.run_id, self.subject.prompts)
            self._parent, self._status = run.info.run_id, run.info.status
        return self._parent

    def find(self, value: str, tag: str = TOKEN, anywhere: bool = False):
        """The run with this token (or other tag), or None; in the subject's experiment or in any."""
        places = [found.experiment_id for found in self.client.search_experiments()] if anywhere else [self._experiment]
        found = self.client.search_runs(places, f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0] if found else None

    def make(self, token: str, tags: dict, began: int = 0):
        """A new run, found again by its token. began: in milliseconds (0: now)."""
        tags = {TOKEN: token, "mlflow.source.name": "prolific", "mlflow.user": "prolific", **tags}
        return self.client.create_run(self._experiment, start_time=began or None, tags=tags)

    def parameters(self, run, values: dict) -> None:
        """Those that the run has not got yet: the server may have gone between the run and its parameters."""
        from mlflow.entities import Param

        items = [Param(name, str(value)[:6000]) for name, value in values.items() if name not in run.data.params]
        for start in range(0, len(items), 100):
            self.client.log_batch(run.info.run_id, params=items[start : start + 100])

    def _follow(self, stage: str, cached: bool, failed: bool) -> None:
        parent = self.parent()
        if stage not in self._stages:
            self._stages[stage] = StageRun(self, stage)
        self._stages[stage].send(parent, cached, failed)

    def _finish(self, metrics: dict, files: list[Path], origin: dict) -> None:
        parent = self.parent()
        stages = {name: run for name, run in self._stages.items() if run.run}
        taken = {name: [run.facts[name] for run in stages.values() if name in run.facts] for name in FACTS}
        values = dict(metrics)
        if stages and len(taken["seconds"]) == len(stages):
            values |= {"seconds": sum(taken["seconds"]), "peak_memory_mb": max(taken["peak_memory_mb"])}
        self._measure(parent, values)
        for path in files:
            if path.is_file():
                self.client.log_artifact(parent, str(path))
        self._tag(parent, {
            "revision": origin["revision"],
            "dvc_lock": origin["locks"].get(WHOLE),
            "device": ", ".join(sorted(set(taken["device"]))),
            "cached": str(set(taken["cached"]) == {"true"}).lower() if stages else None,
        })  # fmt: skip
        for name, run in stages.items():
            self._tag(run.run, {"dvc_lock": origin["locks"].get(name)})

    def _end(self, failed: bool) -> None:
        status = "FAILED" if failed else "FINISHED"
        if status != self._status:  # a run that ended well before keeps its times
            self.client.set_terminated(self._parent, status)

    def _send_kept(self) -> None:
        """What was put aside while the server was away; it stays there when the server goes again."""
        for kept in outbox.kept(self.project):
            tracker = Tracker(self.project, kept)
            tracker.client = self.client
            try:
                tracker.parent()
                for stage, told in kept.stages.items():
                    tracker._follow(stage, told["cached"], told["failed"])
                if kept.finished:
                    tracker._finish(kept.finished["metrics"], kept.files, kept.finished["origin"])
                tracker._end(kept.failed)
            except Exception as error:
                self.client.search_experiments(max_results=1)  # raises where the server is gone
                print(f"prolific: {kept.folder} cannot be sent to MLflow; it stays there ({error})", file=sys.stderr)
            else:
                kept.forget()

    def _measure(self, run: str, values: dict) -> None:
        """Metrics that may change from one day to the next: only what differs is sent, and the newest is shown."""
        there = self.client.get_run(run).data.metrics
        now = int(time.time() * 1000)
        log(self.client, run, [(name, value, 0, now) for name, value in values.items() if there.get(name) != value])

    def _tag(self, run: str, tags: dict) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items() if value])

    def _dataset(self, run: str, prompts: list[dict]) -> None:
        """The prompts that were asked for together, as MLflow's dataset of the run."""
        from mlflow.entities import Dataset, DatasetInput, InputTag
        from mlflow.exceptions import MlflowException

        profile = json.dumps({"num_rows": len(prompts), "prompts": prompts}, ensure_ascii=False)
        dataset = Dataset(
            name=self.subject.experiment if len(prompts) > 1 else prompts[0]["id"],
            digest=hashlib.sha256(profile.encode()).hexdigest()[:16],
            source_type="local",
            source=json.dumps({"uri": "prompts/"}),
            schema=json.dumps(
                {
                    "mlflow_colspec": [
                        {"name": name, "type": "long" if name == "seed" else "string"} for name in prompts[0]
                    ]
                }
            ),
            profile=profile,
        )
        inputs = [DatasetInput(dataset, [InputTag("mlflow.data.context", "prompts")])]
        try:
            self.client.log_inputs(run, inputs)
        except MlflowException:  # another prompt of the sweep brought it at the same moment; now it is known
            self.client.log_inputs(run, inputs)

    def _locks(self) -> dict[str, str]:
        """Hashes of the subject's dvc.lock (WHOLE) and of each stage's entry there: parameters, inputs, code and outputs."""
        path = (self.project.root / getattr(self.subject, "pipeline", "")).with_name("dvc.lock")
        if not hasattr(self.subject, "pipeline") or not path.is_file():
            return {}
        content = path.read_bytes()
        stages = (yaml.safe_load(content) or {}).get("stages", {})  # a kill may have left it empty
        entries = {name: json.dumps(entry, sort_keys=True).encode() for name, entry in stages.items()}
        return {name: hashlib.sha256(entry).hexdigest()[:16] for name, entry in {WHOLE: content, **entries}.items()}

    def _connect(self) -> None:
        _settings()
        import logging

        logging.getLogger("alembic").setLevel(logging.ERROR)
        folder = self.project.state / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):  # first opens at once by several processes crash
            from mlflow import MlflowClient

            client = MlflowClient(uri(self.project))
            client.get_experiment_by_name(self.subject.experiment)
        self.client = client

    def _find_experiment(self) -> str:
        """The id of the subject's experiment, found or made."""
        from mlflow.exceptions import MlflowException

        name = self.subject.experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            local = uri(self.project).startswith("sqlite:")
            place = (self.project.state / "mlflow" / "artifacts").as_uri() if local else None
            try:
                return self.client.create_experiment(name, artifact_location=place)
            except MlflowException:  # another process or machine made it meanwhile
                found = self.client.get_experiment_by_name(name)
        if found.lifecycle_stage == "deleted":  # in the UI; its name stays taken
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _guarded(self, work) -> None:
        if self._off:
            return
        try:
            work()
        except Exception as error:  # whatever a server may do, the run goes on
            self._off = self._lost = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            print(
                f"prolific: MLflow at {uri(self.project)} is not reachable; the run goes on, and what it "
                f"recorded is kept and sent the next time ({reason})",
                file=sys.stderr,
            )


@contextmanager
def _locked(path: Path):
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
