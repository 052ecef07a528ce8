"""Repair of MLflow's database in a project that was copied or moved.

The database holds absolute paths of the runs' files. In a copy, new runs would write into the original project.
"""

import sqlite3
from contextlib import closing
from pathlib import Path

_COLUMNS = (("experiments", "artifact_location"), ("runs", "artifact_uri"))


def adopt(database: Path, artifacts: str) -> None:
    """Replace the artifact folders of other projects in MLflow's database with that of this project.

    Nothing is changed if the database does not exist or has no such folders. The files are not moved, because a copied
    or moved project already contains them.

    Args:
        database: SQLite database of MLflow.
        artifacts: URI of this project's folder for artifacts, which ends in `/.state/mlflow/artifacts`.
    """
    if not database.is_file():
        return
    end = "/.state/mlflow/artifacts"
    with closing(sqlite3.connect(database, timeout=10)) as connection, connection:
        try:
            found = [place for (place,) in connection.execute("SELECT DISTINCT artifact_location FROM experiments")]
        except sqlite3.OperationalError:  # MLflow has not created its tables yet.
            return
        others = {place[: place.index(end) + len(end)] for place in found if place and end in place} - {artifacts}
        for old in others:
            for table, column in _COLUMNS:
                connection.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                    (artifacts, len(old) + 1, len(old), old),
                )
