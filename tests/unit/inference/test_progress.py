import io

from vlv.inference.identity import checkpoint_identity
from vlv.inference.processes import Processes
from vlv.inference.progress import SharedProgress


def test_plain_lines_count_every_process():
    stream = io.StringIO()
    progress = SharedProgress("captions", 10, Processes(0, 4), stream)
    progress.advance(1)
    progress.advance(2)
    progress.close()
    line = stream.getvalue()
    assert line.startswith("captions: 10/10 images")
    assert "images/s, ETA 0:00:00" in line


def test_other_processes_and_empty_runs_are_silent():
    for processes, total in ((Processes(1, 2), 10), (Processes(), 0)):
        stream = io.StringIO()
        progress = SharedProgress("captions", total, processes, stream)
        progress.advance(1)
        progress.close()
        assert stream.getvalue() == ""


def test_a_terminal_gets_a_bar():
    stream = io.StringIO()
    stream.isatty = lambda: True
    progress = SharedProgress("captions", 4, Processes(), stream)
    progress.advance(4)
    progress.close()
    assert "4/4" in stream.getvalue()


def test_shares_cover_everything_once():
    shares = [Processes(index, 3).share(range(10)) for index in range(3)]
    assert sorted(item for share in shares for item in share) == list(range(10))


def test_identity_tells_checkpoints_apart_wherever_they_lie(tmp_path):
    for folder, content in (("a", b"1" * 9_000_000), ("b", b"1" * 9_000_000), ("c", b"1" * 8_999_999 + b"2")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "model.safetensors").write_bytes(content)
    a, b, c = (checkpoint_identity(tmp_path / folder, "fp32")["checkpoint_fingerprint"] for folder in "abc")
    assert a == b != c
