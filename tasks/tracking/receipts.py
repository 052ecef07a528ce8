"""Receipts of runs that MLflow has received completely, in .state/mlflow/receipts/.

A command that finds the receipt of an unchanged run need not import MLflow, which takes two seconds of processor time.
"""

import hashlib
import json
import sqlite3
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path

from prolific_core.files import read_json, write_json
from tasks.runtime import records
from tasks.runtime.digests import digest
from tasks.runtime.project import Project
from tasks.tracking.stage_run import manifest_digest


@dataclass(frozen=True)
class Receipt:
    """Ids of a run in MLflow, and digests of all that was sent and of the computation behind it."""

    content: str
    made: str
    experiment: str
    run: str


def content(subject, stages: list[str], metrics: dict, files: list[Path]) -> str:
    """Return a digest of everything that a tracker sends for a finished run."""
    parts = [attempts(subject, stages), metrics, [[path.name, digest(path)] for path in files]]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def made(subject, stages: list[str]) -> str:
    """Return a digest of what identifies the computation behind all stages."""
    return hashlib.sha256(json.dumps(attempts(subject, stages)).encode()).hexdigest()


def attempts(subject, stages: list[str]) -> list[list[str | None]]:
    """Return what identifies the computation behind each stage: its name, the id of its records, and its output."""
    starts = {name: records.first(subject.state(name) / "records.jsonl") or {} for name in stages}
    return [[name, start.get("attempt"), manifest_digest(subject.output(name))] for name, start in starts.items()]


def write(project: Project, uri: str, subject, token: str, receipt: Receipt) -> None:
    """Keep the receipt of a run, which replaces an earlier one of the same run."""
    write_json(_path(project, uri, subject, token), asdict(receipt))


def find(project: Project, uri: str, subject, token: str) -> Receipt | None:
    """Return the receipt of a run, or None if there is none or the run has been deleted from the local database."""
    try:
        receipt = Receipt(**read_json(_path(project, uri, subject, token)))
    except TypeError:
        return None
    return receipt if _exists(uri, receipt.run) else None


def _path(project: Project, uri: str, subject, token: str) -> Path:
    name = hashlib.sha256(json.dumps([uri, subject.experiment, token]).encode()).hexdigest()[:16]
    return project.state / "mlflow" / "receipts" / f"{name}.json"


def _exists(uri: str, run: str) -> bool:
    """Return whether a run exists in an SQLite database. Runs on a server are assumed to exist."""
    kind, _, path = uri.partition(":///")
    if kind != "sqlite":
        return True
    try:
        with closing(sqlite3.connect(f"{Path(path).as_uri()}?mode=ro", uri=True)) as database:
            query = "select 1 from runs where run_uuid = ? and lifecycle_stage = 'active'"
            return database.execute(query, (run,)).fetchone() is not None
    except (sqlite3.Error, ValueError):
        return False
