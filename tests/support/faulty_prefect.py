"""Run stages as a flow while requests to the Prefect server fail. This is a script so that it can fork without threads.

    python -m tests.support.faulty_prefect FOLDER once|lasting before|after

The n-th request fails, or all from the n-th on, before the server has received it or after it has answered. n rises
until a run makes fewer requests. Each run is a fork, which replaces the work of a stage by a line in FOLDER/n.
Prints one JSON object per run: n, whether the request was reached, and what the run returned or raised.
"""

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

STAGES = ["initialise", "nerf"]


class Fault:
    """Wrapper of the functions that send requests; it makes the n-th request of the process fail."""

    def __init__(self, n: int, lasting: bool, after: bool):
        self.left, self.lasting, self.after = n, lasting, after

    def install(self) -> None:
        from prefect.client import base

        base.PrefectHttpxSyncClient.send = self._counted(base.PrefectHttpxSyncClient.send)
        base.PrefectHttpxAsyncClient.send = self._counted(base.PrefectHttpxAsyncClient.send)

    def _counted(self, send) -> Any:
        def call(*args, **kwargs):
            with self._request():
                return send(*args, **kwargs)

        async def call_async(*args, **kwargs):
            with self._request():
                return await send(*args, **kwargs)

        return call_async if asyncio.iscoroutinefunction(send) else call

    @contextlib.contextmanager
    def _request(self) -> Iterator[None]:
        """Count a request, and raise an error before it or after it if it is to fail."""
        import httpx

        self.left -= 1
        error = httpx.ReadError("the connection was lost")
        lost = self.left == 0 or (self.lasting and self.left < 0)
        if lost and not self.after:
            raise error
        yield
        if lost:
            raise error


def run(log: Path, fault: Fault) -> list[str]:
    """Run the stages as a flow, and return the names of the stages in its result."""
    from prefect import flow

    from flows import generate
    from flows.orchestration import dvc_runner, prefect_runtime
    from flows.orchestration.dvc_runner import StageResult
    from tasks.runtime.project import Project

    def stage_runs(project, stage, *args):
        with open(log, "a") as file:
            file.write(stage + "\n")
        return StageResult(stage, False, 1.0, None)

    def finished(*args) -> set[str]:
        return set(log.read_text().split()) if log.exists() else set()

    dvc_runner.run, dvc_runner.finished = stage_runs, finished
    dvc_runner.cached = lambda subject, stage: StageResult(stage, True, 1.0, None)
    tracker = SimpleNamespace(project=Project(log.parent), subject=None, sync_stage=lambda *args, **kwargs: None)

    @flow(name="faulty", persist_result=False)
    def stages() -> list[str]:
        return [done.stage for done in generate.run_stages(tracker, STAGES)]  # pyright: ignore[reportArgumentType]

    prefect_runtime.set_up(Project(log.parent))
    fault.install()
    return prefect_runtime.run_flow(stages)


def main(folder: Path, lasting: bool, after: bool) -> None:
    import prefect.events.worker  # noqa: F401

    from flows import generate  # noqa: F401

    reached, n = True, 0
    while reached:
        n += 1
        read, write = os.pipe()
        if os.fork() == 0:
            fault = Fault(n, lasting, after)
            try:
                said = {"returned": run(folder / str(n), fault)}
            except BaseException as error:  # the fork must not continue with the code of its parent
                said = {"raised": f"{type(error).__name__}: {error}"}
            os.write(write, json.dumps({"n": n, "reached": fault.left <= 0, **said}).encode())
            os._exit(0)
        os.close(write)
        with os.fdopen(read) as pipe:
            said = pipe.read()
        os.wait()
        print(said, flush=True)
        reached = json.loads(said)["reached"]


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2] == "lasting", sys.argv[3] == "after")
