"""What appears under its name is whole, and what fails leaves nothing behind."""

import os
import resource
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from safetensors.torch import save_file
from torch import zeros

from vlv.atomic import (
    finish_folder,
    remove_leftovers,
    start_folder,
    temporary_folder,
    whole_file,
    whole_folder,
    write_whole,
)


def test_a_file_is_replaced_whole_or_not_at_all(tmp_path):
    path = tmp_path / "a.json"
    write_whole(path, b"old")

    def fail():
        with whole_file(path) as temporary:
            temporary.write_bytes(b"half")
            assert path.read_bytes() == b"old"
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


def test_what_is_no_file_is_never_replaced(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    (tmp_path / "folder").mkdir()
    for name in ("pipe", "link", "folder"):
        with pytest.raises(ValueError, match="is not a regular file, so it is not replaced"):
            write_whole(tmp_path / name, b"new")
    (tmp_path / "file").touch()
    for name in ("pipe", "file"):
        with pytest.raises(ValueError, match="is not a folder, so it is not replaced"), whole_folder(tmp_path / name):
            pass
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "link", "pipe"]
    assert (tmp_path / "pipe").is_fifo()


def test_a_link_stays_one(tmp_path):
    (tmp_path / "elsewhere").mkdir()
    for name in ("there", "not_yet"):
        (tmp_path / name).symlink_to(f"elsewhere/{name}")
    (tmp_path / "elsewhere" / "there").touch()
    for name in ("there", "not_yet"):
        write_whole(tmp_path / name, b"new")
        assert (tmp_path / name).is_symlink()
        assert (tmp_path / "elsewhere" / name).read_bytes() == b"new"


def test_a_write_that_fails_is_an_error_and_leaves_the_old_file(tmp_path):
    """A disk that is full, by the limit on a file's size that a process can set for itself."""
    path = tmp_path / "a.json"
    write_whole(path, b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(path, bytes(2000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


def test_a_folder_is_replaced_whole_or_not_at_all(tmp_path):
    final = tmp_path / "final"
    for number in (1, 2):
        with whole_folder(final) as folder:
            (folder / str(number)).touch()
            assert not (final / str(number)).exists()
    assert os.listdir(final) == ["2"]

    def fail():
        with whole_folder(final) as folder:
            (folder / "3").touch()
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert os.listdir(final) == ["2"]
    assert os.listdir(tmp_path) == ["final"]


def test_what_a_killed_run_left_does_not_get_into_the_next(tmp_path):
    final = tmp_path / "final"
    (start_folder(final) / "stale").touch()
    (start_folder(final) / "new").touch()
    assert (temporary_folder(final) / "new").exists()
    finish_folder(final)
    assert os.listdir(final) == ["new"]


def test_content_is_on_disk_before_its_name_is(tmp_path, monkeypatch):
    """What a power loss needs: fsync of every file and folder, the rename, then fsync of the folder that names it."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def recorded(file):
        calls.append(os.path.relpath(os.readlink(f"/proc/self/fd/{file}"), tmp_path))
        fsync(file)

    def renamed(source, target):
        calls.append("rename")
        replace(source, target)

    monkeypatch.setattr(os, "fsync", recorded)
    monkeypatch.setattr(os, "replace", renamed)
    write_whole(tmp_path / "file", b"new")
    assert [name.rpartition(".")[2] for name in calls] == ["tmp", "rename", ""]  # "." is the folder
    calls.clear()
    with whole_folder(tmp_path / "final") as folder:
        (folder / "part").mkdir()
        (folder / "part" / "weights").write_bytes(b"1")
    before, after = calls[: calls.index("rename")], calls[calls.index("rename") + 1 :]
    assert set(before) == {".writing-final", ".writing-final/part", ".writing-final/part/weights"}
    assert after == ["."]


@pytest.mark.parametrize("mask", [0o022, 0o027, 0o077])
def test_modes_are_those_of_the_umask(tmp_path, mask):
    """safetensors makes its files readable for their owner alone."""
    before = os.umask(mask)
    try:
        with whole_folder(tmp_path / "folder") as folder:
            save_file({"a": zeros(1)}, folder / "a.safetensors")
        with whole_file(tmp_path / "b.safetensors") as temporary:
            save_file({"b": zeros(1)}, temporary)
    finally:
        os.umask(before)
    for path in (tmp_path / "folder" / "a.safetensors", tmp_path / "b.safetensors"):
        assert path.stat().st_mode & 0o777 == 0o666 & ~mask


def test_a_file_that_others_write_and_remove_meanwhile(tmp_path):
    """Looked at twice, a file that came in between was taken for something else than a file."""
    path, end = tmp_path / "x", time.monotonic() + 0.5

    def write():
        while time.monotonic() < end:
            with whole_file(path, durable=False) as temporary:
                temporary.write_bytes(b"x")
            path.unlink(missing_ok=True)

    with ThreadPoolExecutor(4) as threads:
        for done in [threads.submit(write) for _ in range(4)]:
            done.result()


def test_what_killed_writers_left_is_removed_and_nothing_else(tmp_path):
    def kill(path):
        """Leave what a writer leaves that is killed: its temporary file or folder stays."""
        with whole_file(path) as temporary:
            left = temporary.with_name(temporary.name)
            os.link(temporary, tmp_path / "kept")
        os.rename(tmp_path / "kept", left)
        return left

    run, other = tmp_path / "run", tmp_path / "run" / "other"
    other.mkdir(parents=True)
    mine, neighbour, below = kill(run / "a.json"), kill(run / "b.json"), kill(other / "c.json")
    start_folder(run / "final")
    (run / ".hidden.tmp").touch()
    remove_leftovers(run / "a.json")
    assert (mine.exists(), neighbour.exists()) == (False, True)
    remove_leftovers(run)
    assert (neighbour.exists(), below.exists()) == (False, True)
    assert not temporary_folder(run / "final").exists()
    remove_leftovers(run, recursive=True)
    assert {str(path.relative_to(run)) for path in run.rglob("*")} == {
        "a.json", "b.json", "other", "other/c.json", ".hidden.tmp"
    }  # fmt: skip
