"""Progress display of a sweep: a live table in a terminal, and lines of text elsewhere."""

import sys
import threading
import time
from collections.abc import Callable

from tasks.runtime.console import EVERY, Console, detail, line


class Board:
    """Progress display of all prompts in a sweep.

    All methods of the board and its consoles are thread-safe.
    """

    def __init__(self, total: int, done: int = 0):
        self.total, self.counts = total, {"done": done, "failed": 0}
        self._lock = threading.RLock()
        self._rows: dict[str, tuple[str, str, str]] = {}  # stage, steps and detail of each running prompt
        self._said: set[str] = set()
        self._live = None

    def __enter__(self) -> "Board":
        if sys.stderr.isatty():
            from rich.console import Console as Terminal
            from rich.live import Live

            self._live = Live(
                console=Terminal(stderr=True),
                get_renderable=self._table,
                refresh_per_second=4,
                transient=True,
                redirect_stdout=False,  # nothing is printed there, but a library may keep the replaced stream
            )
            self._live.start()
        return self

    def __exit__(self, *_) -> None:
        if self._live:
            self._live.stop()

    def console(self, id: str) -> Callable[[str], Console]:
        """Return a function that maps the name of a stage to a console for this prompt."""
        return lambda stage: _Row(self, id, stage)

    def show(self, id: str, stage: str, steps: str = "", detail: str = "") -> None:
        """Update the table's row for a running prompt."""
        with self._lock:
            self._rows[id] = (stage, steps, detail)

    def wait(self, id: str) -> None:
        """Remove a prompt that waits for a worker from the table."""
        with self._lock:
            self._rows.pop(id, None)

    @property
    def running(self) -> list[str]:
        """Ids of the running prompts."""
        with self._lock:
            return list(self._rows)

    def end(self, id: str, state: str, text: str) -> None:
        """Remove a prompt from the table and print a line with its outcome."""
        with self._lock:
            self._rows.pop(id, None)
            self.counts[state] = self.counts.get(state, 0) + 1
            ended = sum(self.counts.values())
            self.say(f"{_short(id)}  {text}  ({ended} of {self.total})")

    def say(self, text: str) -> None:
        """Print a line above the table, or to stderr if no table is shown."""
        with self._lock:
            if self._live:
                self._live.console.print(text, markup=False, highlight=False, soft_wrap=True)
            else:
                print(text, file=sys.stderr, flush=True)

    def say_once(self, text: str) -> None:
        """Print a line unless it has been printed before."""
        with self._lock:
            if text not in self._said:
                self._said.add(text)
                self.say(text)

    @property
    def live(self) -> bool:
        return self._live is not None

    def _table(self):
        from rich.console import Group
        from rich.table import Table
        from rich.text import Text

        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, overflow="ellipsis", max_width=30)
        for _ in range(3):
            table.add_column(no_wrap=True, overflow="ellipsis")
        with self._lock:
            for id, cells in self._rows.items():
                table.add_row(*(Text(cell) for cell in (id, *cells)))
            waiting = self.total - sum(self.counts.values()) - len(self._rows)
            counts = {**self.counts, "running": len(self._rows), "waiting": waiting}
            shown = ", ".join(f"{count} {state}" for state, count in counts.items() if count or state != "failed")
        return Group(table, Text(shown, style="dim"))


class _Row(Console):
    """Console that shows the progress of a stage on the board."""

    def __init__(self, board: Board, id: str, stage: str):
        super().__init__(f"{_short(id)}  {stage}")
        self.board, self.id, self.stage = board, id, stage
        self._printed = time.monotonic()  # delays the first progress line, so a short stage prints none
        board.show(id, stage)

    def note(self, text: str) -> None:
        if not self.board.live:
            self.board.say(f"{self.title}: {text}")

    def status(self, text: str) -> None:
        self.board.show(self.id, self.stage, "", text)

    def step(self, step: int, steps: int, left: float | None) -> None:
        self.board.show(self.id, self.stage, f"{step}/{steps}", detail(left, self._values))
        if not self.board.live and time.monotonic() - self._printed > EVERY:
            self._printed = time.monotonic()
            self.board.say(f"{self.title} {line(step, steps, left, self._values)}")

    def done(self, text: str, cached: bool) -> None:
        if not self.board.live and not cached:
            self.board.say(f"{self.title} {text}")


def _short(id: str, width: int = 30) -> str:
    return id if len(id) <= width else id[: width - 1] + "…"
