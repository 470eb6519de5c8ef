"""What a sweep shows: a live table of its runs on a terminal, one line per change elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape

from gcgap.report.whole_table import WholeTable
from gcgap.sweep.plan import PlannedRun
from gcgap.sweep.worker import readable
from gcgap.training.display import showing

ACTIVE = ("running", "resumed", "measuring again")
COLOURS = {"failed": "red", "done": "green", "done before": "green", "waiting": "dim"}
EVERY = 1.0  # seconds between two pictures


@dataclass
class Row:
    """A run and how far it is.

    Args:
        run: The run.
        state: waiting, running, resumed, measuring again, done, done before or failed.
        reason: Why it failed.
        step: Step of its newest record, and beside it the accuracy in distribution.
        started: Time when its worker started, in seconds.
        whole: Whether this sweep trains it from the beginning.
        written: Bytes that its log had then.
        seconds: How long it took, if it was run whole.
    """

    run: PlannedRun
    state: str = "waiting"
    reason: str = ""
    step: str = "-"
    accuracy: str = "-"
    started: float = 0.0
    whole: bool = True
    written: int = 0
    seconds: float | None = None
    _seen: Path | None = None

    def begin(self, now: float) -> None:
        """It starts, or resumes."""
        job, resumed = self.run.job, self.run.job.last.exists()
        self.whole, self.started = not resumed, now
        self.state = "resumed" if resumed else "running"
        self.written = Path(job.log).stat().st_size if Path(job.log).exists() else 0

    def look(self) -> None:
        """Read how far its directory is."""
        newest = self.run.job.newest
        if newest is not None and newest != self._seen:
            if (record := readable(newest)) is None:
                return  # no record of ours; the worker will say so
            self._seen, self.step = newest, "-" if record["step"] is None else f"{record['step']:,}"
            self.accuracy = f"{100 * record['accuracy']['in_distribution']:.1f}%" if "accuracy" in record.data else "-"
        if self.state in ("running", "resumed") and self.run.job.is_trained() and not self.run.job.is_done():
            self.state = "measuring again"


def time_left(rows: list[Row], now: float) -> dict[str, float]:
    """Seconds left of each run that waits or is active, by its name: the mean of those of its config, less what has passed."""
    known: dict[Path, list[float]] = {}
    for row in rows:
        if row.seconds is not None:
            known.setdefault(row.run.config, []).append(row.seconds)
    means = {config: sum(seconds) / len(seconds) for config, seconds in known.items()}
    left = {}
    for row in rows:
        if row.run.config in means and row.state in ("waiting", *ACTIVE):
            passed = now - row.started if row.state in ACTIVE else 0
            left[row.run.job.name] = max(means[row.run.config] - passed, 0)
    return left


def picture(rows: list[Row], slots: int, height: int, now: float) -> Group:
    """The table; on a terminal that is too low for it, only the runs that are active or failed."""
    left, room = time_left(rows, now), max(height - 4, 1)
    if len(rows) > room:
        shown = [row for row in rows if row.state in ACTIVE] + [row for row in rows if row.state == "failed"]
    else:
        shown = rows
    table = WholeTable("run", box=None, pad_edge=False)
    for name in ("step", "accuracy", "state", "time left"):
        table.add_column(name, justify="left" if name == "state" else "right", no_wrap=True)
    for row in shown[:room]:
        state = f"[{COLOURS[row.state]}]{row.state}[/]" if row.state in COLOURS else row.state
        table.add_row(escape(row.run.job.name), row.step, row.accuracy, state, _clock(left.get(row.run.job.name)))
    return Group(table, _summary(rows, slots, left))


def _summary(rows: list[Row], slots: int, left: dict[str, float]) -> str:
    """How many runs are in each state, and the time left of all: known once a run of each config is."""
    unfinished = [row for row in rows if row.state in ("waiting", *ACTIVE)]
    whole = max(sum(left.values()) / slots, *left.values()) if left and len(left) == len(unfinished) else None
    counts = Counter("active" if row.state in ACTIVE else row.state for row in rows)
    return f"{len(rows)} runs: {', '.join(f'{n} {state}' for state, n in counts.items())}; time left {_clock(whole)}"


def _clock(seconds: float | None) -> str:
    if seconds is None:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{rest:02}" if minutes >= 60 else f"{minutes}:{rest:02}"


class View:
    """Shows rows while a sweep runs; a context.

    Args:
        rows: The runs.
        slots: Runs at a time.
    """

    def __init__(self, rows: list[Row], slots: int) -> None:
        self.rows, self.slots, self.console = rows, slots, Console()
        self.reported = {row.run.job.name: "waiting" for row in rows}
        self.live = Live(console=self.console, auto_refresh=False)
        self.next = 0.0

    def __enter__(self) -> View:
        for row in self.rows:
            row.look()
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.update(last=True)
        self.live.stop()

    def update(self, last: bool = False) -> None:
        """Show how far everything is, every second."""
        if not last and time.monotonic() < self.next:
            return
        self.next = time.monotonic() + EVERY
        for row in self.rows:
            if row.state in ACTIVE or self.reported[row.run.job.name] != row.state:
                row.look()
            if self.reported[row.run.job.name] != row.state:
                self._report(row)
        if self.console.is_terminal:
            with showing("the table of runs"):
                self.live.update(picture(self.rows, self.slots, self.console.height, time.monotonic()), refresh=True)

    def _report(self, row: Row) -> None:
        """One line for a state that is new; on a terminal, where the table shows it, only why a run failed."""
        self.reported[row.run.job.name] = row.state
        reached = f" at step {row.step}, accuracy {row.accuracy}" if "-" not in (row.step, row.accuracy) else ""
        line = f"{row.run.job.name}: {row.state}{f': {row.reason}' if row.reason else reached}"
        if row.state == "failed" or not self.console.is_terminal:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)
