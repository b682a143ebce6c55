"""The settings of `vlv chaos`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from vlv.settings import ConfigError, option, require

ChaosJob = Literal["stage1", "stage2", "caption", "reconstruct"]


@dataclass(frozen=True)
class ChaosConfig:
    """What is killed, how often, and how large the work is."""

    job: ChaosJob | None = option(None, "what is killed")
    kills: int = option(100, "times that a process, the launcher or the whole run is killed")
    processes: list[int] = option(
        [1], "processes of a run; of several numbers each start draws one, and losses are compared within rounding"
    )
    steps: int = option(60, "optimizer steps of a training")
    images: int = option(256, "images of a captioning or a reconstruction")
    seed: int = option(0, "seed of the moments and of what is killed")
    output_dir: str = option("./outputs/chaos", "folder of the data, the runs and their logs", path="local")
    json: str | None = option(None, "file for the table's facts", path="local")
    print_config: bool = option(False, "print the resolved config, each value with who gave it, and stop")

    def __post_init__(self) -> None:
        if self.job is None:
            raise ConfigError("a job is needed: vlv chaos stage1, stage2, caption or reconstruct")
        for key in ("steps", "images"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        require(self.kills >= 0, "kills", self.kills, "give 0 or more")
        positive = len(self.processes) > 0 and all(number in (1, 2, 4) for number in self.processes)
        require(positive, "processes", self.processes, "give 1, 2 or 4, or several of them as [1,2]")
