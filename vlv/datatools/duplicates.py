"""Images that come twice: fingerprints of a whole source compared."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Fingerprints:
    """Samples by index, each with 16 bytes that are equal for equal images.

    table: uint64 [N, 3]: index, then the two halves of the fingerprint. 24 bytes a sample: 40 M fit in 1 GB.
    """

    table: np.ndarray

    @classmethod
    def of(cls, pairs: Sequence[tuple[int, bytes]]) -> Fingerprints:
        """Pack (index, fingerprint) pairs."""
        table = np.zeros((len(pairs), 3), dtype=np.uint64)
        if pairs:
            table[:, 0] = [index for index, _ in pairs]
            table[:, 1:] = np.frombuffer(b"".join(digest for _, digest in pairs), dtype=np.uint64).reshape(-1, 2)
        return cls(table)


def repeated(fingerprints: Fingerprints) -> np.ndarray:
    """Return the indices, int64 and sorted, of all samples but the first of each fingerprint."""
    table = fingerprints.table
    order = np.lexsort((table[:, 0], table[:, 1], table[:, 2]))
    ranked = table[order]
    same = (ranked[1:, 1:] == ranked[:-1, 1:]).all(axis=1)
    return np.sort(ranked[1:][same][:, 0].astype(np.int64))
