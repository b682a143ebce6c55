"""Running out of memory, told apart from other failures: on a GPU, on the CPU, in torch and in Python."""

from __future__ import annotations


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out; torch's own, on the CPU, is a plain RuntimeError."""
    # Torch's by their names: the command asks this without having loaded torch.
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ in ("OutOfMemoryError", "AcceleratorOutOfMemoryError")
        or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))
    )
