"""Files behind URLs, read by ranges through fsspec: their facts, their bytes, and a clear stop where these are not had.

What cannot be had ends the run, and is no bad sample: it is no fault of the sample, and the other processes would
go on with theirs. So a time-out, retries with growing pauses, and then one line that names the URL.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

from vlv.data.remote_cache import RemoteCache
from vlv.data.transport import PASSING, Patience, persist
from vlv.redaction import redact

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

THREADS = 32  # requests at once while a dataset is opened: their latency counts
_PATIENCE = Patience()
_PIECE = 16 << 20  # bytes of one request at most: what a broken connection costs again
_SLOWEST = 1 << 16  # bytes a second that a connection gives, on top of the time-out
_REMOTE = re.compile(r"\s*[A-Za-z][A-Za-z0-9+.-]*://")
_PACKAGES = {"s3": "s3fs", "s3a": "s3fs", "gs": "gcsfs", "gcs": "gcsfs", "http": "aiohttp", "https": "aiohttp"}
# What tells one version of a file from another, by the names that file systems give it.
_VERSIONS = ("ETag", "etag", "md5Hash", "generation", "blob_id", "mtime", "LastModified", "Last-Modified", "updated")
# A server's definite no, or an error of the code: asked again, the answer would be the same.
_LASTING = (
    PermissionError,
    IsADirectoryError,
    ImportError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    MemoryError,
)
_Result = TypeVar("_Result")

# By process and server. None is ever removed: a forked worker that dropped its parent's copy would close the parent's
# connections, whose event loop and sockets it shares.
_systems: dict[tuple[int, str], AbstractFileSystem] = {}


class RemoteError(ValueError):
    """Remote data that cannot be had; the message names the URL, without credentials, the `reason`, and advice."""

    def __init__(self, reason: str, advice: str = "") -> None:
        super().__init__(f"{reason}; {advice}" if advice else reason)
        self.reason = reason


class MissingFileError(RemoteError):
    """The server has no such file."""


class Facts(NamedTuple):
    """What is known of a remote file before it is read."""

    size: int  # bytes
    version: str  # another one for another content; "" where the server tells none


def is_remote(path: str) -> bool:
    """Whether a path is a URL whose files can be read by ranges: s3://, gs://, hf://, https:// and others of fsspec."""
    return _REMOTE.match(path) is not None


def is_http(path: str) -> bool:
    """Whether a path is an http(s) URL."""
    return path.lstrip().startswith(("http://", "https://"))


def bare(url: str) -> str:
    """A URL without what may be a credential: its user, and an http query. A path stays as it is."""
    if not is_remote(url):
        return url
    if is_http(url):
        url = re.split(r"[?#]", url, maxsplit=1)[0]
    scheme, rest = url.split("://", 1)
    place, slash, path = rest.partition("/")
    return f"{scheme}://{place.rpartition('@')[2]}{slash}{path}"


def public_name(root: str, name: str) -> str:
    """A file's name relative to the root, without what may be a credential."""
    url = os.path.join(root, name)
    return bare(url).removeprefix(f"{bare(root)}/") if is_remote(url) else name


class RemoteFiles:
    """The remote files of one dataset."""

    def __init__(self, cache: RemoteCache | None = None, patience: Patience | None = None) -> None:
        """Read through `cache`, or each time anew."""
        self._cache, self._patience = cache, patience or _PATIENCE
        self._facts: dict[str, Facts] = {}
        self._ranged: set[str] = set()  # servers that are known to give ranges
        # Digest of the names and versions of the images, which are read without asking for each one's.
        self.listing = ""

    def facts(self, url: str) -> Facts:
        """Return the size and version of a file, asked for once.

        Raises:
            RemoteError: it is not there, or the server does not answer or tells no size.
        """
        if url not in self._facts:
            info = self.ask(url, lambda system, path: _info(system, path, self._patience.timeout), opening=True)
            if info.get("type") == "directory":
                raise RemoteError(f"{redact(url)} is a folder: end it with a slash")
            if info.get("size") is None:
                raise RemoteError(f"{redact(url)} cannot be read by index: the server tells no size; {_instead(url)}")
            self.remember(url, info)
        return self._facts[url]

    def remember(self, url: str, info: Mapping[str, object]) -> None:
        """Keep what a listing says of a file, where it is enough."""
        size, version = info.get("size"), version_of(info)
        if isinstance(size, int):
            self._facts[url] = Facts(size, version)

    def ask_for_all(self, urls: Sequence[str]) -> None:
        """Ask for the facts of many files at once; raises RemoteError for one that cannot be had."""
        for _ in in_threads(self.facts, urls):
            pass

    def read(self, url: str, start: int, size: int, keep: bool = True) -> bytes:
        """Return `size` bytes from `start` on.

        Args:
            keep: whether they are worth a place in the cache.

        Raises:
            RemoteError: they cannot be had.
        """
        ends = range(start, start + size, _PIECE)
        return b"".join(self._piece(url, at, min(_PIECE, start + size - at), keep) for at in ends)

    def read_whole(self, url: str, keep: bool = True) -> bytes:
        """Return a file's content; `keep` as in `read`.

        Raises:
            MissingFileError: it is not there.
            RemoteError: it cannot be had.
        """

        def fetch() -> bytes:
            return self.ask(url, lambda system, path: _range(system, path, None, None, self._timeout(_PIECE)))

        # Of the whole URL: its query may choose the content, and nothing is known of a version to tell.
        return self._kept(f"{url} {self.listing}", fetch) if keep and self.listing else fetch()

    def require_ranges(self, url: str) -> None:
        """Check that the server gives ranges of a file, by asking for one byte: others would send all of it each time.

        Raises:
            RemoteError: it does not.
        """
        parts = urlsplit(url)
        if not is_http(url) or parts.netloc in self._ranged or (size := self.facts(url).size) < 2:
            return  # object stores have ranges
        if not self.ask(url, lambda system, path: _gives_ranges(system, path, size), opening=True):
            raise RemoteError(f"{redact(url)} cannot be read by index: the server gives no ranges; {_instead(url)}")
        self._ranged.add(parts.netloc)

    def ask(self, url: str, request: Callable[[AbstractFileSystem, str], _Result], opening: bool = False) -> _Result:
        """Do a request with a file system and its path, again where that may help.

        Args:
            opening: whether the dataset is being opened, for the advice of a message.

        Raises:
            RemoteError: it fails for good.
        """
        shown = redact(url)
        system = _system(url)
        path = cast("str", system._strip_protocol(url))
        try:
            return persist(lambda: request(system, path), self._patience, url, (Exception,), _may_pass)
        except (RemoteError, MemoryError):
            raise
        except Exception as error:  # noqa: BLE001  (each protocol's package has errors of its own)
            if _is_missing(error):
                raise MissingFileError(f"{shown} is not there: check the URL") from None
            advice = (
                "check the URL and the credentials"
                if opening
                else "once it can be read, start it again, a training with resume=latest"
            )
            raise RemoteError(f"{shown} cannot be read: {_reason(error)}", advice) from None

    def _piece(self, url: str, start: int, size: int, keep: bool) -> bytes:
        def fetch() -> bytes:
            return self.ask(url, lambda system, path: _range(system, path, start, size, self._timeout(size)))

        facts = self.facts(url)
        return self._kept(f"{bare(url)} {facts} {start} {size}", fetch) if keep and facts.version else fetch()

    def _kept(self, name: str, fetch: Callable[[], bytes]) -> bytes:
        if self._cache is None:
            return fetch()
        return self._cache.get(hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()[:40], fetch)

    def _timeout(self, size: int) -> float:
        return self._patience.timeout + size / _SLOWEST


def remote_files(cache_gb: float) -> RemoteFiles:
    """Remote files with a cache of so many GiB under $VLV_CACHE_DIR/remote or ~/.cache/vlv/remote; 0 is none."""
    given = os.environ.get("VLV_CACHE_DIR")
    folder = Path(given or os.path.expanduser("~/.cache/vlv")) / "remote"
    usable = cache_gb > 0 and not str(folder).startswith("~")  # there may be no home
    return RemoteFiles(RemoteCache(folder, int(cache_gb * 2**30)) if usable else None)


def in_threads(function: Callable[[str], _Result], urls: Sequence[str]) -> Iterator[_Result]:
    """Call a function for each URL, many at once; the results come in the order of the URLs."""
    with ThreadPoolExecutor(THREADS) as threads:
        yield from threads.map(function, urls)


def version_of(info: Mapping[str, object]) -> str:
    """What a file system tells of a file's version; "" for nothing."""
    return next((f"{key} {info[key]}" for key in _VERSIONS if info.get(key)), "")


def _system(url: str) -> AbstractFileSystem:
    """The file system of a URL in this process.

    Raises:
        RemoteError: the protocol is unknown, or its package is not installed.
    """
    parts = urlsplit(url)
    key = (os.getpid(), f"{parts.scheme}://{parts.netloc}")
    if key not in _systems:
        try:
            from fsspec.core import url_to_fs

            system, _ = url_to_fs(url, skip_instance_cache=True, **_options(parts.scheme))
        except ImportError:
            package = _PACKAGES.get(parts.scheme, f"fsspec's package for {parts.scheme}://")
            without = f", or stream:{redact(url)} needs nothing" if is_http(url) else ""
            raise RemoteError(f"{redact(url)} needs a package: pip install {package}{without}") from None
        except ValueError as error:
            raise RemoteError(f"{redact(url)} cannot be read: {redact(str(error))}") from None
        _systems.setdefault(key, system)  # of two threads one wins
    return _systems[key]


def _options(scheme: str) -> dict[str, object]:
    if scheme not in ("http", "https"):
        return {}
    import aiohttp

    # aiohttp's own limit is for the whole of an answer, however large. Environments name their proxies.
    seconds = _PATIENCE.timeout
    timeout = aiohttp.ClientTimeout(total=None, sock_connect=seconds, sock_read=seconds)
    # Compressed on the way, a range would not be that of the file.
    return {
        "client_kwargs": {"timeout": timeout, "trust_env": True},
        "headers": {"Accept-Encoding": "identity"},
    }


def _info(system: AbstractFileSystem, path: str, timeout: float) -> dict[str, object]:
    return system.info(path, timeout=timeout) if system.async_impl else system.info(path)


def _range(system: AbstractFileSystem, path: str, start: int | None, size: int | None, timeout: float) -> bytes:
    end = None if start is None or size is None else start + size
    if system.async_impl:
        data = cast("bytes", system.cat_file(path, start=start, end=end, timeout=timeout))
    else:
        with system.open(path, "rb", cache_type="none") as file:  # else the file reads ahead by megabytes
            file.seek(start or 0)
            data = cast("bytes", file.read(-1 if size is None else size))
    if size is not None and len(data) != size:
        raise ConnectionError(f"{len(data)} bytes came of {size} from byte {start} on")
    return data


def _gives_ranges(system: AbstractFileSystem, path: str, size: int) -> bool:
    try:
        # fsspec's file looks at the answer's status before it takes the body.
        with system.open(path, "rb", size=size, cache_type="none") as file:
            file.seek(1)
            return len(file.read(1)) == 1
    except ValueError:
        return False


def _origin(error: BaseException) -> BaseException:
    """The error behind a FileNotFoundError, which fsspec raises for whatever kept it from an http file's facts."""
    cause = error.__cause__
    if isinstance(error, FileNotFoundError) and cause is not None and not isinstance(cause, LookupError):
        return cause
    return error


def _is_missing(error: Exception) -> bool:
    origin = _origin(error)
    status = _status(origin)
    return status in (404, 410) or (status is None and isinstance(origin, FileNotFoundError))


def _may_pass(error: Exception) -> bool:
    origin = _origin(error)
    status = _status(origin)
    if status is not None:
        return status in PASSING
    lasting = isinstance(origin, (FileNotFoundError, *_LASTING))
    return not lasting and "Credentials" not in type(origin).__name__


def _status(error: BaseException | None) -> int | None:
    """The HTTP status behind an error, wherever its package keeps it."""
    while error is not None:
        response = getattr(error, "response", None)
        if isinstance(response, dict):
            response = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        places = (getattr(error, "status", None), getattr(error, "code", None))
        found = (*places, getattr(response, "status_code", response))
        status = next((value for value in found if isinstance(value, int)), None)
        if status is not None:
            return status
        error = error.__cause__ if isinstance(error, OSError) else None  # an OSError may stand for a package's own
    return None


def _reason(error: Exception) -> str:
    origin = _origin(error)
    status = _status(origin)
    if status in (401, 403) or isinstance(origin, PermissionError):
        return f"access is refused ({status or origin})"
    text = " ".join(redact(str(origin)).split())[:200]
    if isinstance(origin, TimeoutError):
        return f"the server gave nothing in time{f' ({text})' if text else ''}"
    return text or type(origin).__name__


def _instead(url: str) -> str:
    other = f"stream:{redact(url)} streams .tar shards, or " if is_http(url) else ""
    return f"{other}copy the files to a disk"
