"""Shards that cannot be read, or not to their end, and what else is left out: it is named, and too much of it stops."""

from __future__ import annotations

import logging
from collections.abc import Sequence

_NAMED = 5  # in a message; there may be thousands
_log = logging.getLogger(__name__)


def report_damaged(path: str, damaged: Sequence[str], num_shards: int, max_share: float) -> None:
    """Warn of damaged shards.

    Args:
        path: of the dataset.
        damaged: name and reason of each, in one text.
        num_shards: how many there are in all.
        max_share: how many may be damaged, as a share of all. A damaged shard counts as a whole, as nobody knows how
            much was in it.

    Raises:
        ValueError: more of them are damaged.
    """
    if not damaged:
        return
    what = f"{len(damaged)} of {num_shards} shards are damaged"
    if len(damaged) > max_share * num_shards:
        raise ValueError(
            f"{what} and at most {max_share:.1%} may be: {some_of(damaged)}; repair or remove them, or raise "
            f"max_bad_share: {path}"
        )
    _log.warning("%s: %s; of %s", what, some_of(damaged), path)


def leave_out(message: str, max_share: float) -> None:
    """Warn of what is left out, or stop at it.

    Args:
        max_share: as of `report_damaged`; 0 stops.

    Raises:
        ValueError: nothing may be left out.
    """
    if max_share == 0:
        raise ValueError(f"{message}; max_bad_share=0 allows nothing to be left out: repair the data, or raise it")
    _log.warning("%s", message)


def some_of(names: Sequence[str]) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
