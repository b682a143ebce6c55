"""Tar shards as streams: `pipe:` commands and http(s) URLs after `stream:`, split into members by webdataset."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import groupby
from typing import TypeAlias

from webdataset.shardlists import expand_urls
from webdataset.tariterators import tar_file_expander

from vlv.data.damaged_shards import leave_out, report_damaged
from vlv.data.files import display_name
from vlv.data.formats import SourceSettings
from vlv.data.pairing import is_sample_file, pair_names, webdataset_key
from vlv.data.remote import is_http
from vlv.data.sample import RawSample, StreamSample
from vlv.data.tar_shards import caption_text
from vlv.data.transport import Patience, StreamBrokenError, open_bytes
from vlv.redaction import redact

_Member: TypeAlias = dict[str, str | bytes]  # webdataset's: "fname", "data" and "__url__", or nothing at a shard's end


def expand_stream(path: str) -> list[str]:
    """Expand braces, `::` and, between URLs, commas: "stream:https://a/{0..1}.tar" -> two URLs.

    Raises:
        ValueError: a URL after `stream:` that is no http(s).
    """
    parts = [part.strip() for part in re.split(r",(?=\s*(?:pipe:|stream:|https?://))", path)]
    urls = [part.removeprefix("stream:") for part in parts]
    for part, url in zip(parts, urls, strict=True):
        if part != url and not is_http(url):
            raise ValueError(f"{redact(part)} cannot be streamed: after stream: comes http:// or https://")
    return [name for url in urls for name in expand_urls(url)]


class TarStream:
    """Tar shards that are read from start to end."""

    def __init__(self, path: str, settings: SourceSettings, patience: Patience) -> None:
        """Take the shards that a path names; none is opened."""
        self._urls, self._settings, self._patience = expand_stream(path), settings, patience
        self.num_shards = len(self._urls)
        self._path, self._url = path, ""  # the second is the shard that is being read
        self._damaged: dict[str, str] = {}  # what is wrong with a shard, by its URL, over all epochs

    def read(self, shards: Sequence[int]) -> Iterator[StreamSample]:
        """Yield the samples of shards, one shard after another.

        Raises:
            StreamBrokenError: a shard cannot be had, or breaks off.
        """
        urls = [self._urls[shard] for shard in shards]
        return self._pair(tar_file_expander(self._open(urls), handler=self._pass_over))

    def _pair(self, members: Iterable[_Member]) -> Iterator[StreamSample]:
        """Pair images with captions, as an index does, among neighbours of one webdataset key."""
        for (url, _), group in groupby(filter(_is_sample_member, members), _shard_and_key):
            found = list(group)
            names = [_name(member) for member in found]
            pairing = pair_names(names)
            if pairing.left_out:
                left_out = ", ".join(display_name(names[place]) for place in pairing.left_out)
                self._leave_out(f"left out, as another image has the key: {left_out}; of {url}")
            if pairing.others:
                self._leave_out(f"left out, as it cannot be read: {display_name(names[0])}; of {url}")
            for pair in pairing.pairs:
                caption = b"" if pair.caption is None else _data(found[pair.caption])
                read = partial(self._sample, _data(found[pair.image]), pair.kind, caption)
                yield StreamSample(_sample_name(url, names[pair.image]), read)

    def _leave_out(self, message: str) -> None:
        self._within_share(leave_out, message)

    def _within_share(self, report: Callable[..., None], *arguments: object) -> None:
        try:
            report(*arguments, self._settings.max_bad_share)
        except ValueError as error:  # in a loader's worker: of the kind that ends a run with one line
            raise StreamBrokenError(str(error)) from None

    def _pass_over(self, error: Exception) -> bool:
        """Pass over a damaged shard, which is the same for every process; a broken connection is not."""
        if isinstance(error, StreamBrokenError):
            raise StreamBrokenError(error.args[0]) from None  # webdataset has added its own objects to the message
        if self._url not in self._damaged:  # an earlier epoch has said so
            self._damaged[self._url] = f"{error.args[0]}, what came before is used; of {self._url}"
            self._within_share(report_damaged, self._path, list(self._damaged.values()), self.num_shards)
        return True

    def _open(self, urls: Iterable[str]) -> Iterator[dict[str, object]]:
        for self._url in urls:
            with open_bytes(self._url, self._patience) as stream:
                yield {"url": self._url, "stream": stream}

    def _sample(self, image: bytes, caption_kind: int, caption: bytes) -> RawSample:
        if not self._settings.captions:
            return RawSample(image, None)
        return RawSample(image, caption_text(caption_kind, caption, self._settings.caption_column))


def _sample_name(url: str, member: bytes) -> str:
    shard = re.findall(r"[^/\s?]+\.tar", url)
    return "/".join([*shard[-1:], display_name(member)])


def _is_sample_member(member: _Member) -> bool:
    return "fname" in member and is_sample_file(_name(member))  # webdataset marks a shard's end by an empty member


def _shard_and_key(member: _Member) -> tuple[str, bytes]:
    return str(member["__url__"]), webdataset_key(_name(member))


def _name(member: _Member) -> bytes:
    return str(member["fname"]).encode("utf-8", "surrogateescape")


def _data(member: _Member) -> bytes:
    data = member["data"]
    assert isinstance(data, bytes)  # webdataset's name and URL alone are strings
    return data
