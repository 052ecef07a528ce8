"""Progress display of a stage: a bar in a terminal, and lines of text elsewhere."""

import sys
import time
from collections.abc import Callable
from contextvars import ContextVar

EVERY = 10.0  # minimum number of seconds between progress lines if stderr is not a terminal


def announce(text: str) -> None:
    """Print to stderr what a command does next, before it does something that takes time."""
    print(text, file=sys.stderr, flush=True)


class Console:
    """Progress display of one stage.

    It is printed to stderr, because stdout contains only the result of a command.
    """

    def __init__(self, title: str):
        self.title = title
        self._values: dict[str, float | None] = {}
        self._bar = None
        self._last_line = 0.0

    def values(self, values: dict) -> None:
        self._values = values

    def status(self, text: str) -> None:
        """Show what the stage does before its first step, for example that it loads the prior."""
        if sys.stderr.isatty():
            self._show(None, text)
        else:
            announce(f"{self.title}: {text}")

    def note(self, text: str) -> None:
        """Print a permanent line, above the progress bar if one is shown."""
        if self._bar is not None:
            self._bar.console.print(f"{self.title}: {text}", markup=False, highlight=False, soft_wrap=True)
        else:
            announce(f"{self.title}: {text}")

    def step(self, step: int, steps: int, left: float | None) -> None:
        if sys.stderr.isatty():
            self._show((step, steps), detail(left, self._values))
        elif step >= steps or time.monotonic() - self._last_line > EVERY:
            self._last_line = time.monotonic()
            announce(f"{self.title} {line(step, steps, left, self._values)}")

    def _show(self, progress: tuple[int, int] | None, text: str) -> None:
        if self._bar is None:
            self._bar = bar()
            self._bar.start()
            self._task = self._bar.add_task(self.title, total=None, count="", detail="")
        if progress is None:
            self._bar.update(self._task, detail=text, refresh=True)
        else:
            step, steps = progress
            self._bar.update(self._task, completed=step, total=steps, count=f"{step}/{steps}", detail=text)

    def done(self, text: str, cached: bool) -> None:
        """Print the outcome of a stage."""
        announce(f"{self.title:<11} {text}")

    def close(self) -> None:
        """Remove the progress bar. Its last state would be misleading after a failure or an interruption."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


# Function that creates a console from the name of a stage. A sweep replaces it to show all stages in one display.
new_console: ContextVar[Callable[[str], Console]] = ContextVar("new_console", default=Console)


def bar():
    """Create a progress bar of one line that shows the stage, step, loss and remaining time."""
    from rich.console import Console as Terminal
    from rich.progress import BarColumn, Progress, TextColumn
    from rich.table import Column

    def text(field: str, **options) -> TextColumn:
        return TextColumn(field, markup=False, table_column=Column(no_wrap=True, overflow="ellipsis", **options))

    return Progress(
        text("{task.description}", max_width=30),
        BarColumn(bar_width=20),
        text("{task.fields[count]}"),
        text("{task.fields[detail]}"),
        console=Terminal(stderr=True),
        transient=True,
        redirect_stdout=False,  # nothing is printed there, but a library may keep the replaced stream
    )


def detail(left: float | None, values: dict) -> str:
    """Format the loss and the remaining time, for example `loss 0.312, 95 s left`.

    If the metrics do not include a loss, the first metric is shown.
    """
    parts = []
    name = "loss" if "loss" in values else next(iter(values), None)
    if name and values[name] is not None:
        parts.append(f"{name} {values[name]:.4g}")
    if left is not None:
        parts.append(f"{duration(left)} left")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Format an estimated duration with about two digits, so that the text does not change at every step."""
    if seconds < 10:
        return f"{seconds:.0f} s"
    if seconds < 120:
        return f"{5 * round(seconds / 5)} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def line(step: int, steps: int, left: float | None, values: dict) -> str:
    shown = detail(left, values)
    return f"{step}/{steps}" + (f", {shown}" if shown else "")
