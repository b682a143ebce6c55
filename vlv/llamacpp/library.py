"""The library llama.cpp, by the functions of its own interface."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any


@cache
def llama_cpp() -> Any:
    """The module of llama-cpp-python, ready to be called."""
    import llama_cpp  # pyright: ignore[reportMissingImports]  (an extra)

    # It prints pages about every file and context. What goes wrong comes as an error of ours.
    logging.getLogger("llama-cpp-python").setLevel(logging.CRITICAL + 1)
    llama_cpp.llama_backend_init()
    return llama_cpp
