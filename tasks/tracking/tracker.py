"""Tracking of runs with MLflow.

Each prompt (or prior) and configuration has a parent run, and each stage has a nested run. All data is read from the
records and outputs of the stages on disk. It can be sent at any time and more than once, because runs are identified by
a tag, metrics have their own timestamps, and images have fixed names.

Tracking never makes a run fail. If the server does not answer, one warning is printed, and the unsent data is stored in
the outbox (tasks/tracking/outbox.py) and sent later.
"""

import hashlib
import importlib
import json
import os
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import yaml
from filelock import FileLock

from prolific_core.errors import mask
from tasks.runtime import machine, records
from tasks.runtime.project import Project
from tasks.runtime.revision import revision
from tasks.tracking import moved_store, outbox, receipts
from tasks.tracking.prompt_runs import PromptRuns
from tasks.tracking.receipts import Receipt
from tasks.tracking.stage_run import FACTS, StageRun, log

TOKEN = "prolific.token"
WHOLE = ""  # key for the hash of the whole dvc.lock (the other keys are stage names)


def uri(project: Project) -> str:
    """Return $MLFLOW_TRACKING_URI, or the absolute URI of an SQLite file in .state/."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.state / 'mlflow' / 'mlflow.db'}"


def artifacts(project: Project) -> str:
    """Return the URI of the folder in .state/ that holds the files of the runs."""
    return (project.state / "mlflow" / "artifacts").as_uri()


def prepare() -> None:
    """Start importing MLflow in a thread.

    The import takes two seconds, during which Prefect's server starts or DVC checks the stages.
    """
    if os.environ.get("PROLIFIC_TRACKER") != "off":
        _set_environment()
        module = "mlflow" if os.environ.get("MLFLOW_TRACKING_URI") else "mlflow.store.tracking.sqlalchemy_store"
        threading.Thread(target=importlib.import_module, args=(module,)).start()


def _set_environment() -> None:
    """Set the environment variables that MLflow reads when it is imported."""
    machine.disable_telemetry()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
    os.environ.setdefault("MLFLOW_LOGGING_LEVEL", "ERROR")


def sync(project: Project, subject, stages: list[str]) -> None:
    """Send the records of the given stages to MLflow. See `Tracker` for the type of `subject`."""
    with Tracker(project, subject) as tracker:
        for stage in stages:
            tracker.sync_stage(stage)
        if isinstance(tracker.subject, PromptRuns) and "evaluate" in stages:  # evaluate is the last stage
            tracker.finish(tracker.subject.metrics, tracker.subject.files)


def remember(project: Project, experiment: str, key: str, parameters: dict, values: dict, files: list[Path]) -> None:
    """Send the parameters, metrics and files of a run without stages.

    If a run with the same key exists, it is updated.
    """
    runs = SimpleNamespace(
        experiment=experiment, name=experiment, identity=[experiment, key], tags={}, parameters=parameters
    )
    with Tracker(project, runs) as tracker:
        tracker.finish({name.replace(",", "").replace("=", ""): value for name, value in values.items()}, files)


class Tracker:
    """Context manager that sends the runs of one subject to MLflow.

    Call `sync_stage` repeatedly while a stage runs, and once more after it has ended. The subject is the id of a prompt
    or an object with the attributes of `PromptRuns`. If it has no stages, only `experiment`, `name`, `identity`, `tags`
    and `parameters` are required.
    """

    def __init__(self, project: Project, subject):
        self.project = project
        self.subject = PromptRuns(project.resolve(subject)) if isinstance(subject, str) else subject
        identity = json.dumps(self.subject.identity, sort_keys=True)
        self.token = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self.client: Any = None
        self._off = os.environ.get("PROLIFIC_TRACKER") == "off"
        self._lost = False  # true after the server has stopped answering
        self._parent = ""
        self._status: str | None = None
        self._stages: dict[str, StageRun] = {}
        self._synced: dict[str, dict] = {}
        self._finished: dict | None = None
        self._receipt: Receipt | None = None

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, error: type | None, *_) -> None:
        failed = error is not None
        if self._parent:
            self._guarded(lambda: self._end(failed))
        if self._parent and self._finished and not (failed or self._off):
            self._keep_receipt()
        if self._lost:
            try:
                outbox.keep(self.project, self.token, self.subject, self._synced, self._finished, failed)
            except Exception as trouble:  # The most likely cause is a full disk.
                print(
                    f"prolific: could not save the unsent MLflow records ({trouble}); free some disk space",
                    file=sys.stderr,
                )

    def sync_stage(self, stage: str, cached: bool = False, failed: bool = False, running: bool = False) -> None:
        """Send the new records of a stage.

        If the stage has ended or its output was `cached`, its metrics and files are sent as well, unless DVC is still
        `running`.
        """
        self._synced[stage] = {"cached": cached, "failed": failed}
        self._guarded(lambda: self._sync_stage(stage, cached, failed, running))

    def finish(self, metrics: dict, files: list[Path]) -> None:
        """Send the subject's metrics and files to the parent run, with the code revision and the hashes of dvc.lock."""
        if self._off and not self._lost:
            return
        origin = {"revision": revision(self.project.root), "locks": self._locks()}
        self._finished = {"metrics": metrics, "files": files, "origin": origin}
        self._guarded(lambda: self._finish(metrics, files, origin))

    def is_delivered(self, stages: list[str], metrics: dict, files: list[Path]) -> bool:
        """Return whether MLflow has received all of this and no other run is pending, without importing MLflow."""
        return self._is_received(
            lambda receipt: receipt.content == receipts.content(self.subject, stages, metrics, files)
        )

    def has_outputs(self, stages: list[str]) -> bool:
        """Return whether MLflow has received the outputs of these stages, with any report, and no run is pending."""
        return self._is_received(lambda receipt: receipt.made == receipts.made(self.subject, stages))

    def _is_received(self, is_current: Callable[[Receipt], bool]) -> bool:
        if self._off:
            return True
        found = receipts.find(self.project, uri(self.project), self.subject, self.token)
        if found and is_current(found):
            self._receipt = found
        return self._receipt is not None and outbox.is_empty(self.project)

    def address(self, port: int = 5000) -> str | None:
        """Return the URL of the parent run in the UI that `prolific ui` serves, or None if no run was sent."""
        if self._parent:
            experiment, run = self._experiment, self._parent
        elif self._receipt:
            experiment, run = self._receipt.experiment, self._receipt.run
        else:
            return None
        # Without this workflow type, MLflow opens its page for language models, which does not show the run.
        return f"http://127.0.0.1:{port}/#/experiments/{experiment}/runs/{run}?workflowType=machine_learning"

    def send_pending(self) -> None:
        """Send the runs in the outbox, and nothing of this subject."""

        def send() -> None:
            self._connect()
            self._send_kept()

        self._guarded(send)

    def parent(self) -> str:
        """Return the id of the subject's parent run, and create the run if it does not exist."""
        if not self._parent:
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
        """Return a run whose `tag` equals `value`, or None if no such run exists.

        Only the subject's experiment is searched unless `anywhere` is true.
        """
        places = [found.experiment_id for found in self.client.search_experiments()] if anywhere else [self._experiment]
        found = self.client.search_runs(places, f"tags.`{tag}` = '{value}'", max_results=1)
        return found[0] if found else None

    def make(self, token: str, tags: dict, began: int = 0):
        """Create a run that is tagged with `token`, so that `find` can return it later.

        `began` is the start time in milliseconds, or 0 for the current time.
        """
        tags = {TOKEN: token, "mlflow.source.name": "prolific", "mlflow.user": "prolific", **tags}
        return self.client.create_run(self._experiment, start_time=began or None, tags=tags)

    def parameters(self, run, values: dict) -> None:
        """Log the parameters that are missing from a run.

        Parameters may be missing from an existing run if the server failed after it created the run.
        """
        from mlflow.entities import Param

        items = [Param(name, str(value)[:6000]) for name, value in values.items() if name not in run.data.params]
        for start in range(0, len(items), 100):
            self.client.log_batch(run.info.run_id, params=items[start : start + 100])

    def _sync_stage(self, stage: str, cached: bool, failed: bool, running: bool = False) -> None:
        parent = self.parent()
        if stage not in self._stages:
            self._stages[stage] = StageRun(self, stage)
        self._stages[stage].send(parent, cached, failed, running)

    def _finish(self, metrics: dict, files: list[Path], origin: dict) -> None:
        parent = self.parent()
        stages = {name: run for name, run in self._stages.items() if run.run}
        taken = {name: [run.facts[name] for run in stages.values() if name in run.facts] for name in FACTS}
        values = dict(metrics)
        if stages and len(taken["seconds"]) == len(stages):
            values |= {
                "seconds": records.total_seconds(taken["seconds"]),
                "peak_memory_mb": max(taken["peak_memory_mb"]),
            }
        self._log_metrics(parent, values)
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
        self._delete_lost({run.run for run in stages.values()}, list(stages))

    def _delete_lost(self, own: set[str], stages: list[str]) -> None:
        """Delete runs of the same stages, which a worker has left that was lost with its records or its results.

        Another worker has made these stages since, so that they would appear twice. A lost run is unfinished, or it has
        finished at the same revision, and its result was never part of a finished model.
        """
        found = self.client.search_runs([self._experiment], f"tags.`mlflow.parentRunId` = '{self._parent}'")
        revisions = {run.data.tags["stage"]: run.data.tags.get("revision") for run in found if run.info.run_id in own}
        for run in found:
            stage, revision = run.data.tags.get("stage"), run.data.tags.get("revision", "-dirty")
            if run.info.run_id in own or stage not in stages:
                continue
            repeated = revision == revisions.get(stage) and not revision.endswith("-dirty")
            lost = repeated and run.info.status == "FINISHED" and "dvc_lock" not in run.data.tags
            if lost or run.info.status == "RUNNING":
                self.client.delete_run(run.info.run_id)

    def _keep_receipt(self) -> None:
        finished = self._finished or {}
        content = receipts.content(self.subject, list(self._synced), finished["metrics"], finished["files"])
        made = receipts.made(self.subject, list(self._synced))
        receipt = Receipt(content, made, self._experiment, self._parent)
        receipts.write(self.project, uri(self.project), self.subject, self.token, receipt)

    def _end(self, failed: bool) -> None:
        status = "FAILED" if failed else "FINISHED"
        if status != self._status:  # A run that has already finished keeps its end time.
            self.client.set_terminated(self._parent, status)

    def _send_kept(self) -> None:
        """Send the pending runs. They stay in the outbox if the server stops answering again."""
        for kept in outbox.kept(self.project):
            tracker = Tracker(self.project, kept)
            tracker.client = self.client
            try:
                tracker.parent()
                for stage, flags in kept.stages.items():
                    tracker._sync_stage(stage, flags["cached"], flags["failed"])
                if kept.finished:
                    tracker._finish(kept.finished["metrics"], kept.files, kept.finished["origin"])
                tracker._end(kept.failed)
            except Exception as error:
                self.client.search_experiments(max_results=1)  # This raises if the server does not answer.
                print(f"prolific: could not send {kept.folder} to MLflow; it stays there ({error})", file=sys.stderr)
            else:
                kept.delete()

    def _log_metrics(self, run: str, values: dict) -> None:
        """Log the metrics whose values differ from the latest values in the run."""
        there = self.client.get_run(run).data.metrics
        now = int(time.time() * 1000)
        log(self.client, run, [(name, value, 0, now) for name, value in values.items() if there.get(name) != value])

    def _tag(self, run: str, tags: dict) -> None:
        from mlflow.entities import RunTag

        self.client.log_batch(run, tags=[RunTag(name, value) for name, value in tags.items() if value])

    def _dataset(self, run: str, prompts: list[dict]) -> None:
        """Log the prompts as the dataset of a run."""
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
        except (
            MlflowException
        ):  # Another prompt of the sweep may have created the dataset at the same time, so try again.
            self.client.log_inputs(run, inputs)

    def _locks(self) -> dict[str, str]:
        """Return the hashes of the subject's dvc.lock (with the key WHOLE) and of each stage's entry in it."""
        path = (self.project.root / getattr(self.subject, "pipeline", "")).with_name("dvc.lock")
        if not hasattr(self.subject, "pipeline") or not path.is_file():
            return {}
        content = path.read_bytes()
        stages = (yaml.safe_load(content) or {}).get("stages", {})  # The file may be empty if DVC was killed.
        entries = {name: json.dumps(entry, sort_keys=True).encode() for name, entry in stages.items()}
        return {name: hashlib.sha256(entry).hexdigest()[:16] for name, entry in {WHOLE: content, **entries}.items()}

    def _connect(self) -> None:
        _set_environment()
        if uri(self.project).startswith("sqlite:"):
            # MLflow inserts its default folder for artifacts into an SQL statement without escaping it.
            os.environ.setdefault("_MLFLOW_SERVER_ARTIFACT_ROOT", artifacts(self.project))
        import logging

        logging.getLogger("alembic").setLevel(logging.ERROR)
        folder = self.project.state / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "lock"):  # MLflow crashes if several processes create the database at once.
            from mlflow import MlflowClient

            moved_store.adopt(folder / "mlflow.db", artifacts(self.project))
            client = MlflowClient(uri(self.project))
            client.get_experiment_by_name(self.subject.experiment)
        self.client = client

    def _find_experiment(self) -> str:
        """Return the id of the subject's experiment, and create the experiment if it does not exist."""
        from mlflow.exceptions import MlflowException

        name = self.subject.experiment
        found = self.client.get_experiment_by_name(name)
        if found is None:
            local = uri(self.project).startswith("sqlite:")
            place = artifacts(self.project) if local else None
            try:
                return self.client.create_experiment(name, artifact_location=place)
            except MlflowException:  # Another process or machine has created it in the meantime.
                found = self.client.get_experiment_by_name(name)
        if found.lifecycle_stage == "deleted":  # The name of a deleted experiment stays reserved.
            self.client.restore_experiment(found.experiment_id)
        return found.experiment_id

    def _guarded(self, work) -> None:
        if self._off:
            return
        try:
            work()
        except Exception as error:  # A server failure must not end the run.
            self._off = self._lost = True
            said, _, _ = str(error).partition("[SQL:")  # SQLAlchemy appends the statement
            reason = " ".join(f"{type(error).__name__}: {said}".split())[:200]
            message = (
                f"MLflow at {uri(self.project)} is not reachable; the run continues, and its records are kept and sent "
                f"by the next run ({reason})"
            )
            print(f"prolific: {mask(message)}", file=sys.stderr)
