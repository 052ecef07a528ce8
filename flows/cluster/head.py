"""Head of a sweep whose workers have clones of their own: what it sends to them, and how it collects results."""

import threading
from typing import Any

from flows.cluster import dvc_transfer, handover, revision, workspace
from flows.orchestration import run_status
from flows.orchestration.run_status import RunStatus
from flows.orchestration.work_pool import Submission
from flows.reporting import gallery, report
from prolific_core.errors import ProlificError
from tasks.runtime.locks import prompt_lock
from tasks.runtime.project import STAGES, Project

CLONES = "prolific: own clones"  # tag of the deployment for workers that have clones of their own
BATCH = 50  # maximum number of prompts that are collected at once


class FromClones(Submission):
    """Runs at one revision of the project, whose results are collected from git and from DVC's remote."""

    def __init__(self, project: Project, names: list[str], ids: list[str]):
        super().__init__(names)
        self.project = project
        begun = [id for id in ids if (project.prompt_folder(id) / "dvc.lock").is_file()]
        if begun:
            dvc_transfer.push(project, begun, state=False)  # stages that this clone has made need not run again
        self.revision = revision.publish(project)
        self.collector = Collector(project, self.revision)

    def parameters(self, id: str) -> dict[str, Any]:
        return {**super().parameters(id), "revision": self.revision}

    def options(self, id: str, number: int) -> dict[str, Any]:
        """Return the revision for the worker, and a key by which Prefect starts each run once.

        Two sweeps over the same prompt at the same revision therefore wait for the same run.
        """
        return {
            "job_variables": {"env": {workspace.REVISION: self.revision}},
            "idempotency_key": f"{self.revision[:12]}-{id}-{number}",
        }

    def progress(self, id: str) -> object:
        commit = handover.fetch(self.project, id)
        found = handover.read(self.project, commit) if commit else None
        return (found.stages, found.steps) if found else None

    def collect(self, id: str) -> None:
        self.collector.collect(id)

    def finish(self) -> None:
        gallery.write(self.project)


class Collector:
    """Collector of finished prompts, which fetches those together that finish while it is busy."""

    def __init__(self, project: Project, revision: str):
        self.project, self.revision = project, revision
        self._waiting: list[str] = []
        self._failures: dict[str, Exception] = {}
        self._guard, self._busy = threading.Lock(), threading.Lock()

    def collect(self, id: str) -> None:
        """Fetch the pipeline, the outputs and the records of a finished prompt into this clone.

        Raises a ProlificError if the worker has not handed over the complete prompt.
        """
        with self._guard:
            self._waiting.append(id)
        with self._busy:
            with self._guard:
                batch = self._waiting[:BATCH] if id in self._waiting[:BATCH] else [id] if id in self._waiting else []
                self._waiting = [other for other in self._waiting if other not in batch]
            # The prompts of other threads are fetched with this one, and those threads then find nothing to do.
            if batch:
                try:
                    self._fetch(batch)
                except Exception as error:
                    self._failures.update(dict.fromkeys(batch, error))
            error = self._failures.pop(id, None)
        if error:
            raise error

    def _fetch(self, ids: list[str]) -> None:
        commits = handover.fetch_all(self.project, ids)
        messages = {}
        for id in ids:
            message = handover.read(self.project, commits[id]) if id in commits else None
            if message and message.complete and message.revision == self.revision:
                messages[id] = message
            else:
                self._failures[id] = ProlificError(
                    f"the run of {id} has completed, but its results were not handed over"
                )
        for id in messages:
            with prompt_lock(self.project, id, lambda text: None):
                handover.write_files(self.project, id, commits[id], handover.FILES[1:])
        dvc_transfer.pull(self.project, list(messages))
        for id, message in messages.items():
            dvc_transfer.install_state(self.project, id)
            if self.project.finished_stages(id) == len(STAGES):
                report.write(self.project.resolve(id))
                run_status.write(self.project, id, RunStatus("done", seconds=message.seconds))
            else:
                self._failures[id] = ProlificError(
                    f"DVC's remote does not have all outputs of {id}; run the same command again"
                )
