"""What Prefect's UI shows of a run beside its states: progress, tables, links. Nothing here may fail a run."""

from collections.abc import Callable

from flows.orchestration import prefect_runtime


def progress(key: str, share: float, description: str, known: dict) -> None:
    """How far a run is, share in [0, 1]; `known` keeps the artifact's id from one call to the next."""

    def work() -> None:
        from prefect.artifacts import create_progress_artifact, update_progress_artifact

        if "id" in known:
            update_progress_artifact(known["id"], progress=100 * share)
        else:
            known["id"] = create_progress_artifact(progress=100 * share, key=_key(key), description=description)

    _guarded(work)


def table(key: str, rows: list[dict], description: str) -> None:
    def work() -> None:
        from prefect.artifacts import create_table_artifact

        create_table_artifact(table=rows, key=_key(key), description=description)

    _guarded(work)


def link(key: str, url: str, text: str) -> None:
    def work() -> None:
        from prefect.artifacts import create_link_artifact

        create_link_artifact(link=url, link_text=text, key=_key(key))

    _guarded(work)


def _key(key: str) -> str:
    """As Prefect wants it: lower-case letters, digits and hyphens."""
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
