"""Captions from `transformers serve`, an independent server of the protocol, with a model of known answers."""

import json
import shutil
import socket
import subprocess
import time
import urllib.request

import pytest

from vlv.cli.data_caption import main

from .chat_server import write_pictures

pytest.importorskip("fastapi")


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """(address, model) of a server on a free port."""
    from .teacher import write_teacher

    folder = tmp_path_factory.mktemp("teacher")
    write_teacher(folder)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [shutil.which("transformers"), "serve", str(folder), "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen([*command, "--device", "cpu"], stdout=log, stderr=subprocess.STDOUT, cwd=folder)
    try:
        until = time.monotonic() + 120
        while True:
            assert process.poll() is None, (folder / "log").read_text()
            assert time.monotonic() < until, (folder / "log").read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=2)
                break
            except OSError:
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}/v1", str(folder)
    finally:
        process.terminate()
        process.wait()


def test_captions_of_a_real_server(served, tmp_path, capsys):
    from .teacher import IMAGE_TOKENS, SAID

    names = write_pictures(tmp_path / "in", 3)
    (tmp_path / "prompt.txt").write_text("What is it")
    call = [str(tmp_path / "in"), str(tmp_path / "out"), f"base_url={served[0]}", f"model={served[1]}"]
    main([*call, "concurrency=2", f"prompt_file={tmp_path}/prompt.txt"])
    assert json.loads((tmp_path / "out" / "captions.json").read_text()) == dict.fromkeys(names, SAID)
    facts = json.loads((tmp_path / "out" / "report.json").read_text())
    # Every byte is a token: the image, the prompt, and the colon; then the answer and its end.
    assert facts["prompt_tokens"] == 3 * (IMAGE_TOKENS + len("What is it") + 1)
    assert facts["completion_tokens"] == 3 * (len(SAID) + 1)
    assert facts["failed_tries"] == {}


def test_an_answer_that_a_real_server_cuts(served, tmp_path, capsys):
    write_pictures(tmp_path / "in", 2)
    call = [str(tmp_path / "in"), str(tmp_path / "out"), f"base_url={served[0]}", f"model={served[1]}"]
    main([*call, "max_tokens=3"])
    lines = (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()
    assert [json.loads(line)["outcome"] for line in lines] == ["cut", "cut"]


def test_a_model_that_a_real_server_does_not_have(served, tmp_path, capsys):
    write_pictures(tmp_path / "in", 5)
    capsys.readouterr()
    with pytest.raises(SystemExit) as end:
        main([str(tmp_path / "in"), str(tmp_path / "out"), f"base_url={served[0]}", "model=absent", "retries=0"])
    assert end.value.code == 1
    assert "absent" in capsys.readouterr().err
