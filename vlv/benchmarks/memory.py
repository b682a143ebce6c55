"""A process's memory, as Linux counts it."""

from __future__ import annotations

from pathlib import Path


def memory_mib(process: int | str = "self") -> dict[str, float]:
    """MiB by kind, as Anonymous, Private_Dirty and Pss (with a share of what several processes have mapped).

    Raises:
        OSError: the process has ended.
    """
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}
