"""What appears under its name is whole, and what fails leaves nothing behind."""

import os

import pytest
from safetensors.torch import save_file
from torch import zeros

from vlv.atomic import finish_folder, start_folder, temporary_folder, whole_file, whole_folder, write_whole


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
