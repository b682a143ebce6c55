"""A run in Weights & Biases, beside metrics.jsonl and never instead of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from wandb import Run


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
    """Sends metrics, images and tables; the first call that fails switches it off with one message."""

    def __init__(self, settings: WandbSettings, folder: Path, report: Callable[[str], None]) -> None:
        """Start the run; `report` prints a message."""
        self._folder, self._report = folder, report
        self._run: Run | None = None
        self._try(lambda: self._start(settings))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Send numbers."""
        if (run := self._run) is not None:
            self._try(lambda: run.log(dict(values), step=step))

    def images(self, step: int, name: str, paths: Sequence[Path]) -> None:
        """Send image files, each under its name."""

        def send(run: Run) -> None:
            import wandb

            run.log({name: [wandb.Image(str(path), caption=path.stem) for path in paths]}, step=step)

        if (run := self._run) is not None:
            self._try(lambda: send(run))

    def table(self, step: int, name: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Send a table."""

        def send(run: Run) -> None:
            import wandb

            run.log({name: wandb.Table(columns=list(columns), data=[list(row) for row in rows])}, step=step)

        if (run := self._run) is not None:
            self._try(lambda: send(run))

    def finish(self) -> None:
        """End the run."""
        if (run := self._run) is not None:
            self._try(run.finish)

    def _start(self, settings: WandbSettings) -> None:
        import wandb  # takes a second, and most runs do without

        self._run = wandb.init(
            project=settings.project,
            name=settings.run_name,
            mode=settings.mode,
            config=dict(settings.config),
            dir=str(self._folder),
        )

    def _try(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever W&B raises must not end a training of days
            self._run = None
            reason = (str(error).splitlines() or [""])[0]
            self._report(
                f"W&B is off from here ({type(error).__name__}: {reason}); metrics continue in "
                f"{self._folder / 'metrics.jsonl'}"
            )
