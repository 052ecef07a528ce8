"""MLflow remembers every run: a parent run per prompt (or prior) and configuration, a nested run per stage.

Everything is read from what a stage left on disk (its records, its output), never from the stage
itself, so that it can be sent at any time, again and again: a run is looked up by a tag that says
what it is, points carry their own times, and pictures deterministic names. Nothing here may fail a
run: a tracker that is away costs one warning, and what was not sent is sent the next time.
"""

import fcntl
import hashlib
import importlib
import json
import os
import shutil
import sys
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

from prolific_core.config import Config
from prolific_core.prompts import Prompt
from tasks import machine, records
from tasks.project import Project

EXPERIMENT = "prolific"
TOKEN = "prolific.token"
SENT = "prolific.sent"  # bytes of the records file that arrived


def uri(project: Project) -> str:
    """$MLFLOW_TRACKING_URI, else an SQLite file in .state/ (absolute: the default follows the folder one is in)."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{project.state / 'mlflow' / 'mlflow.db'}"


def prepare() -> None:
    """Import MLflow, two seconds of it, in a thread: while DVC is asked what there is to do."""
    if os.environ.get("PROLIFIC_TRACKER") != "off":
        module = "mlflow" if os.environ.get("MLFLOW_TRACKING_URI") else "mlflow.store.tracking.sqlalchemy_store"
        threading.Thread(target=importlib.import_module, args=(module,)).start()


def sync(project: Project, subject, stages: list[str]) -> None:
    """Send what the stages of a prompt's id (or another subject) recorded; a warning if that cannot be done."""
    with Tracker(project, subject) as tracker:
        for stage in stages:
            tracker.follow(stage)


def remember(project: Project, experiment: str, key: str, parameters: dict, values: dict, files: list[Path]) -> None:
    """One run on its own, found again by its key: parameters, measures, files. A warning if that cannot be done."""
    runs = SimpleNamespace(experiment=experiment, name=experiment, identity=[experiment, key], tags={}, parameters=parameters)
    with Tracker(project, runs) as tracker:
        tracker.summarise(**{name.replace(",", "").replace("=", ""): value for name, value in values.items()})
        tracker.files(files)


class PromptRuns:
    """What is tracked of a prompt: the names, tags and parameters of its runs, and where its stages lie."""

    experiment = EXPERIMENT

    def __init__(self, project: Project, id: str):
        self.project, self.name = project, id
        self.prompt: Prompt = project.prompt(id)
        self.config: Config = project.config(self.prompt)
        values = self.config.model_dump(mode="json", exclude={"logging"})
        self.identity = [id, self.prompt.text, self.prompt.seed, values]

    @property
    def tags(self) -> dict:
        return {
            "prompt": self.prompt.text,
            "prompt_id": self.prompt.id,
            "preset": self.prompt.preset,
            "method": self.config.nerf.guidance.method,
            "prior": self.config.prior.path,
        }

    @property
    def parameters(self) -> dict:
        return {"seed": self.prompt.seed, **flat(self.config.model_dump(mode="json"))}

    def stage_tags(self, stage: str) -> dict:
        tags = {name: self.tags[name] for name in ("prompt", "prompt_id", "preset")}
        guidance = getattr(getattr(self.config, stage), "guidance", None)
        return tags | ({"method": guidance.method} if guidance else {})

    def stage_parameters(self, stage: str) -> dict:
        return {"seed": self.prompt.seed, **flat(getattr(self.config, stage).model_dump(mode="json"))}

    @property
    def pipeline(self) -> str:
        return f"prompts/{self.name}/dvc.yaml"

    def state(self, stage: str) -> Path:
        return self.project.stage_state(self.name, stage)

    def output(self, stage: str) -> Path:
        return self.project.output(self.name, stage)


class Tracker:
    """One subject's runs. `follow(stage)` sends what is new; call it while a stage runs and after.

    The subject is a prompt's id, or whatever has the attributes of `PromptRuns`.
    """

    def __init__(self, project: Project, subject):
        self.project = project
        self.subject = PromptRuns(project, subject) if isinstance(subject, str) else subject
        identity = json.dumps(self.subject.identity, sort_keys=True)
        self.token = hashlib.sha256(identity.encode()).hexdigest()[:16]
        self._client = None
        self._off = os.environ.get("PROLIFIC_TRACKER") == "off"
        self._parent: str | None = None
        self._runs: dict[str, "_StageRun"] = {}

    def __enter__(self) -> "Tracker":
        return self

    def __exit__(self, error: type | None, *_) -> None:
        if self._parent:
            status = "FAILED" if error else "FINISHED"
            self._guarded(lambda: self._client.set_terminated(self._parent, status))

    def follow(self, stage: str, cached: bool = False, failed: bool = False) -> None:
        """Send a stage's new records; once it ended, its measures and files too."""
        self._guarded(lambda: self._follow(stage, cached, failed))

    def files(self, paths: list[Path]) -> None:
        """Keep final files with the parent run."""

        def work() -> None:
            parent = self.parent()
            for path in paths:
                if path.is_file():
                    self._client.log_artifact(parent, str(path))

        self._guarded(work)

    def summarise(self, **values) -> None:
        """The prompt's own measures, on the parent run."""

        def work() -> None:
            parent = self.parent()
            _log(self._client, parent, [(k, v, 0, 0) for k, v in values.items()])

        self._guarded(work)

    def address(self, port: int = 5000) -> str | None:
        """The parent run's page in the UI that `prolific ui` opens."""
        if not self._parent:
            return None
        return f"http://127.0.0.1:{port}/#/experiments/{self._experiment}/runs/{self._parent}"

    def parent(self) -> str:
        """The subject's run, found or made."""
        if self._parent is None:
            self._connect()
            self._parent, new = self.find_or_make(self.token, {"mlflow.runName": self.subject.name, **self.subject.tags})
            if new:
                self.parameters(self._parent, self.subject.parameters)
        return self._parent

    def find_or_make(self, token: str, tags: dict) -> tuple[str, bool]:
        """The id of the run with this token, and whether it is new."""
        found = self._client.search_runs([self._experiment], f"tags.`{TOKEN}` = '{token}'", max_results=1)
        if found:
            return found[0].info.run_id, False
        run = self._client.create_run(
            self._experiment, tags={TOKEN: token, "mlflow.source.name": "prolific", "mlflow.user": "prolific", **tags}
        )
        return run.info.run_id, True

    def parameters(self, run: str, values: dict) -> None:
        from mlflow.entities import Param

        items = [Param(name, str(value)[:6000]) for name, value in values.items()]
        for start in range(0, len(items), 100):
            self._client.log_batch(run, params=items[start : start + 100])

    def _follow(self, stage: str, cached: bool, failed: bool) -> None:
        parent = self.parent()
        if stage not in self._runs:
            self._runs[stage] = _StageRun(self, stage)
        self._runs[stage].send(parent, cached, failed)

    def _connect(self) -> None:
        machine.quiet()
        os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "10")
        import logging

        logging.getLogger("mlflow").setLevel(logging.ERROR)
        logging.getLogger("alembic").setLevel(logging.ERROR)
        folder = self.project.state / "mlflow"
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(folder / "lock"):  # first opens at once by several processes crash
            from mlflow import MlflowClient
            from mlflow.exceptions import MlflowException

            where = uri(self.project)
            self._client = MlflowClient(where)
            experiment = self.subject.experiment
            found = self._client.get_experiment_by_name(experiment)
            if found is None:
                local = where.startswith("sqlite:")
                place = (folder / "artifacts").as_uri() if local else None
                try:
                    self._experiment = self._client.create_experiment(experiment, artifact_location=place)
                except MlflowException:  # another machine made it meanwhile
                    self._experiment = self._client.get_experiment_by_name(experiment).experiment_id
            else:
                self._experiment = found.experiment_id

    def _guarded(self, work) -> None:
        if self._off:
            return
        try:
            work()
        except Exception as error:  # whatever a server may do, the run goes on
            self._off = True
            reason = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            print(
                f"prolific: MLflow at {uri(self.project)} is not reachable; the run goes on, and what it "
                f"recorded is sent the next time ({reason})",
                file=sys.stderr,
            )


class _StageRun:
    """The nested run of one stage: how far its records were sent."""

    def __init__(self, tracker: Tracker, stage: str):
        self.tracker, self.stage = tracker, stage
        self.state = tracker.subject.state(stage)
        self.output = tracker.subject.output(stage)
        self.attempt: str | None = None
        self.run: str | None = None
        self.offset = 0
        self.done = False

    def send(self, parent: str, cached: bool, failed: bool) -> None:
        path = self.state / "records.jsonl"
        start = records.first(path)
        if cached and not self._recorded(path):
            start = None  # the output came from DVC's cache; the records are of another run
        attempt = start["attempt"] if start else _manifest_digest(self.output)
        if attempt is None:
            return  # nothing happened yet
        if attempt != self.attempt:
            self._open(parent, attempt, cached)
        if self.done:
            return
        new, offset = records.read(path, self.offset) if start else ([], 0)
        self._send(new)
        if offset != self.offset:
            self.offset = offset
            self.tracker._client.set_tag(self.run, SENT, str(offset))
        end = next((record for record in reversed(new) if record["kind"] == "end"), None)
        if end or not start:
            self._close(end)
        elif failed:
            self.tracker._client.set_terminated(self.run, "FAILED")

    def _recorded(self, path: Path) -> bool:
        """Whether the records are of the output that is there."""
        found, _ = records.read(path)
        return bool(found) and found[-1].get("manifest", "")[:16] == _manifest_digest(self.output)

    def _open(self, parent: str, attempt: str, cached: bool) -> None:
        tracker, stage = self.tracker, self.stage
        tags = {
            "mlflow.runName": stage,
            "mlflow.parentRunId": parent,
            "stage": stage,
            "cached": str(cached).lower(),
            **tracker.subject.stage_tags(stage),
        }
        self.run, new = tracker.find_or_make(f"{tracker.token}:{stage}:{attempt}", tags)
        self.attempt, self.offset, self.done = attempt, 0, False
        if new:
            tracker.parameters(self.run, tracker.subject.stage_parameters(stage))
        else:
            run = tracker._client.get_run(self.run)
            self.offset = int(run.data.tags.get(SENT, 0))
            self.done = run.info.status == "FINISHED"

    def _send(self, new: list[dict]) -> None:
        points = []
        for record in new:
            time = int(record.get("time", 0) * 1000)
            if record["kind"] == "measures":
                points += [(name, value, record["step"], time) for name, value in record["values"].items()]
            elif record["kind"] == "picture":
                self._picture(record, time)
            elif record["kind"] == "file" and (self.state / record["file"]).is_file():
                self.tracker._client.log_artifact(self.run, str(self.state / record["file"]))
        _log(self.tracker._client, self.run, points)

    def _picture(self, record: dict, time: int) -> None:
        """Under the name that the UI's step slider looks for; the same name when it is sent again."""
        source = self.state / record["file"]
        if not source.is_file():
            return
        from PIL import Image

        unique = hashlib.sha256(f"{self.attempt}{record['file']}".encode()).hexdigest()[:32]
        stem = f"{record['name']}+step+{record['step']}+timestamp+{time}+{unique}"
        with tempfile.TemporaryDirectory() as folder:
            shutil.copyfile(source, Path(folder) / f"{stem}.png")
            Image.open(source).convert("RGB").save(Path(folder) / f"{stem}+compressed.webp")
            self.tracker._client.log_artifacts(self.run, folder, "images")
        self.tracker._client.set_tag(self.run, "mlflow.loggedImages", "true")

    def _close(self, end: dict | None) -> None:
        """The stage came to its end: its measures, its files, what it took."""
        client = self.tracker._client
        measures = self.output / "measures.json"
        values = (end or {}).get("measures") or (json.loads(measures.read_text()) if measures.is_file() else {})
        time = int((end or {}).get("time", 0) * 1000)
        usage = {k: end[k] for k in ("seconds", "peak_memory_mb") if k in end} if end else {}
        usage |= {f"share_{name}": share for name, share in (end or {}).get("shares", {}).items()}
        _log(client, self.run, [(k, v, 0, time) for k, v in {**values, **usage}.items()])
        if end and "device" in end:
            client.set_tag(self.run, "device", end["device"])
        for pattern in ("*.json", "*.png", "*.mp4", "*.glb"):
            for path in sorted(self.output.glob(pattern)):
                client.log_artifact(self.run, str(path))
        client.set_terminated(self.run)
        self.done = True


def flat(values: dict, prefix: str = "") -> dict:
    """`{"guidance": {"scale": 7.5}}` as `{"guidance.scale": 7.5}`: parameters one can search for."""
    result = {}
    for key, value in values.items():
        name = f"{prefix}{key}"
        result |= flat(value, f"{name}.") if isinstance(value, dict) else {name: value}
    return result


def _log(client, run: str, points: list[tuple]) -> None:
    from mlflow.entities import Metric

    metrics = [Metric(name, value, time, step) for name, value, step, time in points if value is not None]
    for start in range(0, len(metrics), 500):
        client.log_batch(run, metrics=metrics[start : start + 500])


def _manifest_digest(output: Path) -> str | None:
    manifest = output / "manifest.json"
    return hashlib.sha256(manifest.read_bytes()).hexdigest()[:16] if manifest.is_file() else None


@contextmanager
def _locked(path: Path):
    with open(path, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
