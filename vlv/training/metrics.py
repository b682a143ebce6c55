"""What a run reports: metrics.jsonl always, a progress bar or lines, and W&B where it is asked for."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from tqdm import tqdm

from vlv.atomic import is_disk_full, write_whole
from vlv.redaction import redact
from vlv.training.restarts import RESTARTS, RestartClock, as_record, describe
from vlv.training.tracker import WandbSettings, WandbTracker

METRICS, SKIPPED_STEPS = "metrics.jsonl", "skipped_steps.jsonl"


class MetricLogger:
    """Writes on process 0; on every other process each method does nothing."""

    def __init__(
        self,
        folder: Path,
        *,
        enabled: bool,
        num_steps: int,
        first_step: int = 0,
        validated: bool = True,
        wandb: WandbSettings | None = None,
        restart: RestartClock | None = None,
    ) -> None:
        """Open metrics.jsonl for appending and start the progress bar.

        Args:
            enabled: whether this process writes.
            num_steps: optimizer step at which the run ends, for the bar and the remaining time.
            first_step: where the run starts; lines after it are of a run that was killed, and are removed, so that
                the file reads as that of one run.
            validated: whether the validation of that step came to its end; if not, its line is removed too.
            wandb: where in W&B the run goes; None is nowhere.
            restart: of a run that resumes; what it took is written down after the first step.
        """
        self.enabled = enabled
        self.num_steps = num_steps
        self.path, self.skipped_path = folder / METRICS, folder / SKIPPED_STEPS
        self._tracker: WandbTracker | None = None
        self._restart = restart
        self._started, self._first_step = time.monotonic(), first_step
        self._bar: tqdm | None = None
        self._unwritten: dict[Path, bytes] = {}
        if not enabled:
            return
        folder.mkdir(parents=True, exist_ok=True)
        for path in (self.path, self.skipped_path):
            _remove_lines_after(path, first_step, validated)
        if sys.stderr.isatty():  # in a log file a bar is one endless line
            self._bar = tqdm(total=num_steps, initial=first_step, dynamic_ncols=True, unit="step")
        if wandb is not None:
            self._tracker = WandbTracker(wandb, folder, self.message)

    def advance(self, step: int) -> None:
        """Count a step that has just ended."""
        if self.enabled and self._restart is not None:
            restart, self._restart = self._restart.stop(), None
            path = self.path.with_name(RESTARTS)
            self.message(describe(restart, path))
            self._append(path, as_record(restart))
        if self._bar is not None:
            self._bar.update(step - self._bar.n)

    def log(self, step: int, metrics: Mapping[str, float]) -> None:
        """Write one line of metrics, and show the main ones."""
        if not self.enabled:
            return
        self._append(self.path, {"step": step, **finite_or_none(metrics)})
        if self._tracker is not None:
            self._tracker.metrics(step, metrics)
        # A count of 0 bad or truncated samples is the normal case, and not worth a reader's time.
        shown = {key: value for key, value in metrics.items() if value or not key.endswith("_samples")}
        text = "  ".join(f"{_short(key)} {_format(value)}" for key, value in shown.items())
        if self._bar is not None:
            self._bar.set_postfix_str(text)
        else:
            remaining = f"  ETA {self._remaining(step)}" if step < self.num_steps else ""
            self.message(f"step {step}/{self.num_steps}  {text}{remaining}")

    def skipped(self, step: int, metrics: Mapping[str, float], samples: Sequence[object]) -> None:
        """Write down a step whose loss or gradient was not finite, with what it was made of."""
        if self.enabled:
            self._append(self.skipped_path, {"step": step, **finite_or_none(metrics), "samples": samples})
            text = "  ".join(f"{key} {value}" for key, value in metrics.items())
            self.message(f"step {step} is skipped: {text}; {self.skipped_path} names its samples")

    def pictures(self, step: int, name: str, paths: Sequence[Path]) -> None:
        """Send images to W&B; the files themselves are in the run folder."""
        if self._tracker is not None:
            self._tracker.images(step, name, paths)

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Send a table to W&B."""
        if self._tracker is not None:
            self._tracker.table(step, name, columns, rows)

    def message(self, text: str) -> None:
        """Print a line without breaking the progress bar."""
        if self.enabled:
            tqdm.write(redact(text), file=sys.stderr)

    def close(self) -> None:
        """End the bar and the W&B run."""
        if self._bar is not None:
            self._bar.close()
        if self._tracker is not None:
            self._tracker.finish()

    def _append(self, path: Path, record: Mapping[str, object]) -> None:
        """Add a line to a file; where the disk is full, with the next one that it takes."""
        text = self._unwritten.pop(path, b"") + json.dumps(record).encode() + b"\n"
        size = path.stat().st_size if path.is_file() else 0
        try:
            with path.open("ab") as handle:  # opened for each line: a killed run leaves whole lines
                handle.write(text)
        except OSError as error:
            if not is_disk_full(error):
                raise
            os.truncate(path, size)  # a part of the line may be there
            self._unwritten[path] = text

    def _remaining(self, step: int) -> str:
        done = step - self._first_step
        if done <= 0:
            return "?"
        return tqdm.format_interval((time.monotonic() - self._started) / done * (self.num_steps - step))


def finite_or_none(metrics: Mapping[str, float]) -> dict[str, float | None]:
    """Numbers as JSON can hold them: it has neither NaN nor infinity, so these become null."""
    return {key: value if math.isfinite(value) else None for key, value in metrics.items()}


def _step_of(line: str) -> int | None:
    """The step of a line of metrics; None for one that was cut when a run was killed."""
    try:
        return json.loads(line)["step"]
    except ValueError:
        return None


def _remove_lines_after(path: Path, step: int, validated: bool) -> None:
    if not path.is_file():
        return
    lines = path.read_text().splitlines(keepends=True)
    kept = []
    for line in lines:
        found = _step_of(line)
        # Not validated: the run was killed between the line of the validation and the mark of its end.
        again = not validated and found == step and '"val/' in line
        if found is not None and found <= step and not again:
            kept.append(line)
    if kept != lines:
        write_whole(path, "".join(kept).encode())


def _short(key: str) -> str:
    return key.removeprefix("train/").replace("images_per_second", "img/s").replace("data_wait_share", "wait")


def _format(value: float) -> str:
    return f"{value:.3e}" if 0 < abs(value) < 1e-3 else f"{value:.4g}"
