"""Datasets of the Hugging Face hub as streams: nothing is kept on the disk."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import pyarrow as pa

from vlv.data.arrow import hub_errors, one_line, require_hub_name
from vlv.data.cells import caption_of, check_columns, image_of
from vlv.data.files import HUB_STREAM
from vlv.data.formats import SourceSettings, caption_column
from vlv.data.sample import RawSample, StreamSample
from vlv.data.transport import StreamBrokenError

_ROWS = 32  # read at once


class HubStream:
    """The rows of a dataset, read from start to end through `datasets`, which asks again where a server fails."""

    def __init__(self, path: str, settings: SourceSettings) -> None:
        """Ask the hub what the dataset is.

        Raises:
            ValueError: it cannot be had, or has not the split or the columns.
        """
        from datasets import load_dataset

        self._path, self._settings = path, settings
        name, split = require_hub_name(path, HUB_STREAM), settings.split or "train"
        with hub_errors(path, "streamed", split):
            dataset: Any = load_dataset(
                name, settings.subset, split=split, revision=settings.revision, streaming=True
            ).with_format("arrow")
            schema = next(iter(dataset.iter(1)), pa.table({})).schema
        check_columns(path, schema, settings.image_column, caption_column(settings))
        self._rows, self._label = dataset, f"{name}:{split}"
        self.num_shards = int(dataset.num_shards)

    def read(self, shards: Sequence[int]) -> Iterator[StreamSample]:
        """Yield the samples of shards, one shard after another.

        Raises:
            StreamBrokenError: the hub does not give them.
        """
        for shard in shards:
            number = 0
            rows = self._rows.shard(self.num_shards, shard, contiguous=True)
            for table in self._tables(rows):
                for row in range(table.num_rows):
                    yield StreamSample(f"{self._label}:{shard}:{number + row}", partial(self._sample, table, row))
                number += table.num_rows

    def _tables(self, rows: Any) -> Iterator[pa.Table]:
        try:
            yield from rows.iter(_ROWS)
        except Exception as error:  # noqa: BLE001  (of whatever kind: another process might read on, out of step)
            raise StreamBrokenError(f"{self._path} broke off: {one_line(error)}") from None

    def _sample(self, table: pa.Table, row: int) -> RawSample:
        settings, column = self._settings, caption_column(self._settings)
        image = image_of(table.column(settings.image_column)[row], settings.raw_image_shape)
        return RawSample(image, None if column is None else caption_of(table.column(column)[row]))
