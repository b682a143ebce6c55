"""Memory that is free, and running out of it, told apart from other failures: of a GPU, of the CPU, in Python."""

from __future__ import annotations

from pathlib import Path

# A container's or a job's limit, and what of it is used: control groups of version 2, and 1.
_LIMITS = (
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)


def available_memory() -> int:
    """Bytes that this process may still take: of the machine, and of the limit of its container or job."""
    import psutil

    free = psutil.virtual_memory().available
    for limit, used in _LIMITS:
        try:
            free = min(free, int(Path(limit).read_text()) - int(Path(used).read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    return free


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch's own, on the CPU, is a plain RuntimeError."""
    # Torch's by their names: the command asks this without having loaded torch.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ in ("OutOfMemoryError", "AcceleratorOutOfMemoryError")
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )
