"""A run in Weights & Biases, beside metrics.jsonl and never instead of it."""

from __future__ import annotations

import queue
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from vlv.atomic import write_whole

if TYPE_CHECKING:
    from wandb import Run

RUN_ID = "wandb_run_id"  # a file in the run's folder, so that a resumed run goes on as the same one
_PATIENCE = 60.0  # seconds that the end of a run waits for what has not been sent


@dataclass(frozen=True)
class WandbSettings:
    """Where a run goes. The key comes from the environment or from `wandb login`, never from here.

    mode: online or offline.
    config: the run's settings, shown beside it.
    """

    mode: Literal["online", "offline"]
    project: str = "vlv"
    run_name: str = "run"
    config: Mapping[str, object] = field(default_factory=dict)


class WandbTracker:
    """Sends metrics, images and tables from a thread of its own, so that a server that hangs delays no step.

    The first thing that fails switches it off with one message.
    """

    def __init__(
        self, settings: WandbSettings, folder: Path, report: Callable[[str], None], patience: float = _PATIENCE
    ) -> None:
        """Start the run; `report` prints a message."""
        self._folder, self._report, self._patience = folder, report, patience
        self._jobs: queue.SimpleQueue[Callable[[Run], object] | None] = queue.SimpleQueue()
        self._given_up = False
        # A daemon: a server that never answers must not keep the process.
        self._thread = threading.Thread(target=self._send_all, args=(settings,), name="wandb", daemon=True)
        self._thread.start()

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers."""
        content = dict(values)
        self._put(lambda run: run.log(content, step=step))

    def images(self, step: int, name: str, paths: Sequence[Path]) -> None:
        """Send image files, each under its name."""

        def send(run: Run) -> None:
            import wandb

            run.log({name: [wandb.Image(str(path), caption=path.stem) for path in paths]}, step=step)

        self._put(send)

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Send a table."""

        def send(run: Run) -> None:
            import wandb

            run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])}, step=step)

        self._put(send)

    def finish(self) -> None:
        """End the run, when everything is sent or patience is at its end."""
        self._jobs.put(None)
        self._thread.join(self._patience)
        if self._thread.is_alive():
            self._given_up = True
            self._report(f"W&B has not taken everything within {self._patience:g} s; {self._elsewhere()}")

    def _put(self, job: Callable[[Run], object]) -> None:
        if self._thread.is_alive():  # else something has failed, and nobody takes it
            self._jobs.put(job)

    def _send_all(self, settings: WandbSettings) -> None:
        try:
            run = self._start(settings)
            while (job := self._jobs.get()) is not None:
                job(run)
            run.finish()
        except Exception as error:  # noqa: BLE001 - whatever W&B raises must not end a training of days
            if self._given_up:  # it fails as the process ends, which was said already
                return
            reason = (str(error).splitlines() or [""])[0]
            self._report(f"W&B is off from here ({type(error).__name__}: {reason}); {self._elsewhere()}")

    def _start(self, settings: WandbSettings) -> Run:
        import wandb  # takes a second, and most runs do without

        return wandb.init(
            project=settings.project,
            name=settings.run_name,
            mode=settings.mode,
            config=dict(settings.config),
            dir=str(self._folder),
            id=self._run_id(),
            resume="allow",  # steps that a resumed run takes again are those that W&B has, which keeps the first
        )

    def _run_id(self) -> str:
        path = self._folder / RUN_ID
        if not path.is_file():
            write_whole(path, f"{uuid.uuid4().hex[:16]}\n".encode())
        return path.read_text().strip()

    def _elsewhere(self) -> str:
        return f"all metrics are in {self._folder / 'metrics.jsonl'}"
