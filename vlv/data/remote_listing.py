"""What lies under a URL, and list files: prefixes, globs and braces become names, as those of local paths do."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections import Counter
from collections.abc import Mapping
from itertools import takewhile
from typing import TYPE_CHECKING, cast
from urllib.parse import unquote

from vlv.data.files import Listing, expand_braces, kind_of, pack_names, unread_kind
from vlv.data.formats import FORMATS, accepted
from vlv.data.remote import RemoteError, RemoteFiles, bare, is_http, is_remote, version_of
from vlv.redaction import redact

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

LIST_ENDING = ".list"
_NEXT_URL = re.compile(r",(?=\s*[A-Za-z][A-Za-z0-9+.-]*://)")  # other commas may be a URL's own
_NEEDS_QUOTES = frozenset("#?%")  # a name with one of them stays as the page quotes it
_Found = dict[str, Mapping[str, object]]  # by path or URL: what the listing says of the file, if anything


def is_listed(path: str) -> bool:
    """Whether a path is for `look_remotely`: a URL, several, or a file that lists paths and URLs."""
    is_list = bare(path.strip()).endswith(LIST_ENDING) and not os.path.isdir(path)
    return is_list or any(map(is_remote, _NEXT_URL.split(path)))


def look_remotely(path: str, files: RemoteFiles) -> tuple[str, Listing]:
    """List what a URL, a pattern of URLs or a list file names: (root, what is under it).

    Raises:
        ValueError: nothing is there, or it cannot be listed.
    """
    path = path.strip()
    parts = _read_list(path, files) if bare(path).endswith(LIST_ENDING) else _expand(path)
    if len(parts) == 1 and _is_folder(parts[0]):
        root, found = _list(parts[0], files)
    else:
        found = {}
        for part in parts:
            found |= _match(part, files) if _has_magic(part) else {part: {}}
        if missing := [name for name in found if not is_remote(name) and not os.path.lexists(name)]:
            raise ValueError(f"{redact(path)} names {missing[0]}, which does not exist; {accepted()}")
        root = _common_folder(list(found)) if found else ""
        explicit = [url for url, facts in found.items() if not facts and is_remote(url)]
        files.ask_for_all([url for url in explicit if kind_of(bare(url)) != "folder"])
    if not found:
        raise RemoteError(f"{redact(path)} names no file: check the URL; {accepted()}")
    listing = _sort(root, found, files)
    if not any(map(len, listing.files.values())) and not _is_folder(parts[0]):
        raise ValueError(f"{redact(path)} is of no format that can be read; {accepted()}")
    return root, listing


def _read_list(path: str, files: RemoteFiles) -> list[str]:
    """The lines of a list file; relative ones start from its folder."""
    if is_remote(path):
        content, folder = files.read_whole(path, keep=False), bare(path).rpartition("/")[0]
    else:
        path = os.path.abspath(os.path.expanduser(path))
        folder = os.path.dirname(path)
        try:
            with open(path, "rb") as file:
                content = file.read()
        except OSError as error:
            raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    try:
        lines = [line.strip() for line in content.decode("utf-8-sig").splitlines()]
    except UnicodeDecodeError:
        raise ValueError(f"{redact(path)} is not UTF-8: save it as UTF-8") from None
    named = [line for line in lines if line and not line.startswith("#")]
    if not named:
        raise ValueError(f"{redact(path)} lists nothing: give a path or URL on each line")
    return list(dict.fromkeys(name if is_remote(name) else os.path.join(folder, name) for name in named))


def _expand(path: str) -> list[str]:
    """Expand braces, and commas between URLs."""
    names: list[str] = []
    for part in map(str.strip, _NEXT_URL.split(path)):
        # A comma outside of braces is the URL's own here; \0 is in no URL.
        text = _hide_outer_commas(part) if is_remote(part) else part
        names += [name.replace("\0", ",") for name in expand_braces(text)]
    return list(dict.fromkeys(names))


def _hide_outer_commas(text: str) -> str:
    depth, shown = 0, ""
    for character in text:
        depth += (character == "{") - (character == "}")
        shown += "\0" if character == "," and not depth else character
    return shown


def _has_magic(part: str) -> bool:
    return glob.has_magic(_without_query(part))


def _is_folder(part: str) -> bool:
    is_file = kind_of(bare(part)) is not None and not part.endswith("/")
    return is_remote(part) and not is_file and not _has_magic(part)


def _match(part: str, files: RemoteFiles) -> _Found:
    """The files that a glob matches, sorted."""
    if not is_remote(part):
        return {name: {} for name in sorted(glob.glob(part, recursive=True))}
    from fsspec.utils import glob_translate

    levels = part.split("/")
    first = next(n for n, level in enumerate(levels) if _has_magic(level))
    folder, rest = "/".join(levels[:first]), "/".join(levels[first:])
    root, found = _list(folder, files)
    pattern = re.compile(glob_translate(rest))
    return {url: found[url] for url in found if pattern.match(url.removeprefix(f"{root}/"))}


def _list(url: str, files: RemoteFiles) -> tuple[str, _Found]:
    """The root as the file system writes it, and all that lies below it, but for what is hidden; sorted.

    fsspec's `glob`, and its `find` where it walks through folders, leave out a folder that cannot be listed.
    """
    root, listed = files.ask(url, _find_flat, opening=True)
    if listed is None:
        listed, folders = {}, [root]
        while folders:
            for name, facts in files.ask(folders.pop(), _entries, opening=True).items():
                if facts.get("type") != "directory":
                    listed[name] = facts
                elif _is_visible(name, root):
                    folders.append(name)
    return root, {name: listed[name] for name in sorted(listed, key=os.fsencode) if _is_visible(name, root)}


def _find_flat(system: AbstractFileSystem, path: str) -> tuple[str, _Found | None]:
    """The root, and what object stores list without folders; None for other file systems."""
    from fsspec import AbstractFileSystem
    from fsspec.asyn import AsyncFileSystem

    system.invalidate_cache()  # what is there now, not what an earlier look of this process found
    root = system.unstrip_protocol(path.rstrip("/"))
    if isinstance(system, AsyncFileSystem):
        walks = type(system)._find is AsyncFileSystem._find
    else:
        walks = type(system).find is AbstractFileSystem.find
    if walks:
        return root, None
    return root, _urls(system, cast("_Found", system.find(path, detail=True)))


def _entries(system: AbstractFileSystem, path: str) -> _Found:
    return _urls(system, {facts["name"]: facts for facts in system.ls(path, detail=True)})


def _urls(system: AbstractFileSystem, found: _Found) -> _Found:
    return {system.unstrip_protocol(name): facts for name, facts in found.items()}


def _is_visible(url: str, root: str) -> bool:
    """Whether a listed file or folder is neither hidden, nor a link of an index page to itself or to another order."""
    name = url.removeprefix(root).strip("/")
    hidden = not name or any(part.startswith(".") for part in name.split("/"))
    return not hidden and not (is_http(url) and "?" in name)


def _common_folder(names: list[str]) -> str:
    """The folder that all paths or URLs lie in; "" where they are of several places."""
    if not any(map(is_remote, names)):
        return os.path.commonpath([os.path.dirname(name) for name in names])
    folders = [_without_query(name).split("/")[:-1] for name in names]
    levels = takewhile(lambda level: len(set(level)) == 1, zip(*folders, strict=False))
    shared = [level[0] for level in levels]
    return "/".join(shared) if len(shared) >= 3 else ""  # the scheme, nothing, and the server


def _without_query(url: str) -> str:
    return re.split(r"[?#]", url, maxsplit=1)[0] if is_http(url) else url


def _sort(root: str, found: _Found, files: RemoteFiles) -> Listing:
    """Sort files by format, names relative to the root; what the listing says of each goes to `files`."""
    names: dict[str, list[str]] = {kind: [] for kind in FORMATS}
    others: Counter[str] = Counter()
    images = hashlib.sha256()
    for url, facts in found.items():
        if url.endswith("/"):  # a folder's own object
            continue
        kind, name = kind_of(bare(url)), url.removeprefix(f"{root}/") if root else url
        if kind is None:
            other = unread_kind(os.path.basename(bare(url)))
            others.update([] if other is None else [other])
            continue
        if kind == "folder":
            images.update(f"{url} {facts.get('size')} {version_of(facts)}\n".encode("utf-8", "backslashreplace"))
        elif version_of(facts):
            files.remember(url, facts)
        names[kind].append(_unquoted(name) if is_http(url) and "?" not in name else name)
    files.listing = images.hexdigest()
    return Listing({kind: pack_names(listed) for kind, listed in names.items()}, others, files)


def _unquoted(name: str) -> str:
    """The name that a page's link quotes, as captions and messages have it; a request quotes it again."""
    plain = unquote(name)
    return name if _NEEDS_QUOTES & set(plain) else plain
