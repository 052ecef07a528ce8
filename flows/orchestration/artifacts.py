"""Artifacts of a flow run in Prefect's UI: progress bars, tables and links.

Server errors are ignored, so a run does not fail if an artifact cannot be created.
"""

from collections.abc import Callable

from flows.orchestration import prefect_runtime


def progress(key: str, fraction: float, description: str, known: dict) -> None:
    """Create a progress artifact, or update it if `known` contains its id.

    The id of a new artifact is stored in `known`. `fraction` is in [0, 1].
    """

    def work() -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if "id" in known:
            update_progress_artifact(known["id"], progress=100 * fraction)
        else:
            known["id"] = create_progress_artifact(progress=100 * fraction, key=_key(key), description=description)

    _guarded(work)


def table(key: str, rows: list[dict], description: str) -> None:
    """Create a table artifact."""

    def work() -> None:
        from prefect.artifacts import create_table_artifact

        create_table_artifact(table=rows, key=_key(key), description=description)

    _guarded(work)


def link(key: str, url: str, text: str) -> None:
    """Create a link artifact."""

    def work() -> None:
        from prefect.artifacts import create_link_artifact

        create_link_artifact(link=url, link_text=text, key=_key(key))

    _guarded(work)


def _key(key: str) -> str:
    """Convert a key to lower-case letters, digits and hyphens, as Prefect requires."""
    return "".join(sign if sign.isalnum() and sign.isascii() else "-" for sign in key.lower())


def _guarded(work: Callable[[], None]) -> None:
    if prefect_runtime.is_offline():
        return
    from prefect.context import FlowRunContext

    if FlowRunContext.get() is None:
        return
    try:
        work()
    except Exception as error:
        if not prefect_runtime.is_server_error(error):
            raise
