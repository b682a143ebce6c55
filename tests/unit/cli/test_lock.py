"""Two runs into one place: the second is refused by name, and what a killed one left keeps nobody out."""

import os
import signal
import socket
import subprocess
import sys

import pytest

from vlv.cli.lock import output_locks
from vlv.config import CaptionConfig, ConfigError, Stage1Config

HOLD = """
import sys
from vlv.cli.lock import output_locks
from vlv.config import CaptionConfig, Stage1Config
config = Stage1Config(output_dir=sys.argv[1]) if sys.argv[2] == "train" else CaptionConfig(output_path=sys.argv[1])
with output_locks(config):
    print("held", flush=True)
    sys.stdin.read()
"""


def hold(place, kind):
    call = [sys.executable, "-c", HOLD, str(place), kind]
    process = subprocess.Popen(call, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "held\n"
    return process


@pytest.mark.parametrize("kind", ["train", "caption"])
def test_the_second_run_is_refused_until_the_first_ends(tmp_path, kind):
    place = tmp_path / "new" / "out"
    config = Stage1Config(output_dir=str(place)) if kind == "train" else CaptionConfig(output_path=str(place))
    first = hold(place, kind)
    with pytest.raises(ConfigError, match=f"in use by process {first.pid} on {socket.gethostname()} since"):
        output_locks(config).__enter__()
    first.communicate("")
    with output_locks(config):
        pass
    assert not list((tmp_path / "new").rglob("*lock"))


def test_a_place_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refused)
    with pytest.raises(ConfigError, match=r"output_dir=.*out cannot be written: Permission denied in .*out; give"):
        output_locks(Stage1Config(output_dir=str(tmp_path / "out"))).__enter__()


def test_the_lock_of_a_mounted_folder_lies_in_it(tmp_path, monkeypatch):
    place = tmp_path / "photos"
    place.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with output_locks(CaptionConfig(output_path=str(place), to="txt")):
        assert [file.name for file in place.iterdir()] == [".photos.lock"]
    assert list(tmp_path.iterdir()) == [place]


def test_what_a_killed_run_left_is_taken_over(tmp_path):
    first = hold(tmp_path, "train")
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert str(first.pid) in (tmp_path / ".lock").read_text()
    with output_locks(Stage1Config(output_dir=str(tmp_path))):
        assert f'"pid": {os.getpid()}' in (tmp_path / ".lock").read_text()


def test_previews_are_held_too(tmp_path):
    config = CaptionConfig(output_path=str(tmp_path / "captions.json"), preview_dir=str(tmp_path / "previews"))
    with output_locks(config):
        assert {path.name for path in tmp_path.rglob("*lock")} == {".captions.json.lock", ".lock"}
    assert not list(tmp_path.rglob("*lock"))
