"""Captions from a real server on loopback that misbehaves: what is asked, kept, left out, spent, and asked again."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from email.utils import formatdate
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from vlv.cli.data_caption import main
from vlv.data.formats import SourceSettings
from vlv.data.sources import open_source

from .chat_server import ChatServer, answer, caption_of, write_pictures

ROOT = Path(__file__).resolve().parents[3]
REFUSAL = "I\u2019m sorry, but I can't help with that."


@pytest.fixture
def server():
    server = ChatServer()
    yield server
    server.close()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr("vlv.datatools.endpoint._FIRST_PAUSE", 0.01)


@pytest.fixture
def call(server, tmp_path, capsys):
    """Caption tmp_path/in into tmp_path/out; returns (exit code, stdout, stderr)."""

    def run(*settings, out="out"):
        given = {item.partition("=")[0] for item in settings}
        defaults = {"base_url": server.url, "model": "teacher", "timeout": "5", "concurrency": "4"}
        rest = [f"{key}={value}" for key, value in defaults.items() if key not in given]
        try:
            main([str(tmp_path / "in"), str(tmp_path / out), *rest, *settings])
            code = 0
        except SystemExit as end:
            code = end.code
        return code, *capsys.readouterr()

    return run


def captions(tmp_path, out="out"):
    return json.loads((tmp_path / out / "captions.json").read_text())


def left_out(tmp_path):
    lines = (tmp_path / "out" / "left_out.jsonl").read_text().splitlines()
    return {record["name"]: record["outcome"] for record in map(json.loads, lines)}


def facts(tmp_path):
    return json.loads((tmp_path / "out" / "report.json").read_text())


def one_line(*numbers):
    return {f"{number:02}.png": caption_of(number) for number in numbers}


def test_every_image_is_asked_once_with_the_prompt_and_has_its_own_caption(server, call, tmp_path):
    write_pictures(tmp_path / "in", 9)
    code, out, err = call("temperature=0.5", "max_tokens=77")
    assert code == 0
    assert captions(tmp_path) == one_line(*range(9))
    assert server.asked() == dict.fromkeys(range(9), 1)
    for seen in server.seen:
        assert seen["path"] == "/v1/chat/completions"
        assert seen["prompt"] == (ROOT / "configs" / "caption_prompt.txt").read_text().strip()
        assert (seen["body"]["model"], seen["body"]["temperature"], seen["body"]["max_tokens"]) == ("teacher", 0.5, 77)
    assert "9 images: 9 captions" in out
    assert "captions: 9/9 images" in err


def test_the_image_is_sent_upright_in_rgb_over_white_and_no_larger_than_asked(server, call, tmp_path):
    (tmp_path / "in").mkdir()
    pixels = np.zeros((40, 80, 4), np.uint8)
    pixels[:, 40:] = (200, 0, 0, 255)  # the left half is transparent: white; the right half is red
    image = Image.fromarray(pixels)
    exif = image.getexif()
    exif[274] = 6  # to be turned by 90 degrees clockwise: left comes to the top
    image.save(tmp_path / "in" / "a.png", exif=exif)
    assert call("max_side=40", "jpeg_quality=100")[0] == 0
    (seen,) = server.seen
    sent = seen["picture"]
    assert (sent.format, sent.mode, sent.size) == ("JPEG", "RGB", (20, 40))
    assert np.abs(np.asarray(sent, int)[:15] - 255).max() < 12
    assert np.abs(np.asarray(sent, int)[25:] - [200, 0, 0]).max() < 12


def test_a_small_image_keeps_its_size(server, call, tmp_path):
    write_pictures(tmp_path / "in", 1)
    call()
    assert server.seen[0]["picture"].size == (60, 40)


def test_passing_faults_are_tried_again_and_leave_no_gap(server, call, tmp_path):
    write_pictures(tmp_path / "in", 10)
    server.faults = {
        0: [500],
        1: [503, 502],
        2: [408],
        3: [409],
        4: [429],
        5: [b'{"choices": '],
        6: [b"[]"],
        7: [{"choices": []}],
        8: ["cut"],
        9: ["hang", answer("half \ud800")],
    }
    code, out, _ = call("timeout=0.5")
    assert code == 0
    assert captions(tmp_path) == one_line(*range(10))
    assert server.asked() == {0: 2, 1: 3, 2: 2, 3: 2, 4: 2, 5: 2, 6: 2, 7: 2, 8: 2, 9: 3}
    tries = {"broken answer": 4, "connection": 1, "time-out": 1}
    tries |= dict.fromkeys(("500", "502", "503", "408", "409", "429"), 1)
    assert facts(tmp_path)["failed_tries"] == tries
    assert facts(tmp_path)["requests"] == len(server.seen) == 22
    assert "tries that failed: 4 broken answer" in out


@pytest.mark.parametrize("header", ["1", "date"])
def test_retry_after_holds_back_every_request(server, call, tmp_path, header):
    write_pictures(tmp_path / "in", 6)
    # A date has whole seconds, so 2 of them are at least 1; it is of the moment of the answer.
    wait = {"Retry-After": "1" if header == "1" else lambda: formatdate(time.time() + 2, usegmt=True)}
    server.delay = 0.05
    server.faults = {1: [(429, wait, {"error": {"message": "slow down"}})]}
    assert call("concurrency=2")[0] == 0
    refused = next(at for at, seen in enumerate(server.seen) if seen["number"] == 1)
    later = [seen["time"] - server.seen[refused]["time"] for seen in server.seen[refused + 1 :]]
    # The other worker sends nothing either once the answer has come; it has sent two at most by then.
    assert len(server.seen) == 7
    assert len([gap for gap in later if gap >= 0.9]) >= 3
    assert captions(tmp_path) == one_line(*range(6))


def test_a_pause_of_hours_ends_the_call(server, call, tmp_path):
    write_pictures(tmp_path / "in", 3)
    server.faults = {1: [(429, {"Retry-After": "86400"}, {})]}
    code, _, err = call("concurrency=1")
    assert code == 1
    assert "asks for a pause of 86,400 s (Retry-After): call again then" in err
    assert captions(tmp_path) == one_line(0)
    assert call()[0] == 0
    assert server.asked() == {0: 1, 1: 2, 2: 1}


def test_a_time_out_is_for_the_whole_answer(server, call, tmp_path):
    write_pictures(tmp_path / "in", 2)
    server.faults = {1: ["drip", "drip"]}
    began = time.monotonic()
    code, _, err = call("timeout=0.4", "retries=1")
    assert (code, left_out(tmp_path)) == (1, {"01.png": "failed"})
    assert "1 images have no answer: the same call asks for them again" in err
    assert time.monotonic() - began < 4
    assert call("timeout=0.4")[0] == 0  # what failed is asked again, and nothing else
    assert server.asked() == {0: 1, 1: 3}
    assert captions(tmp_path) == one_line(0, 1)


def test_what_is_no_caption_is_left_out_by_kind(server, call, tmp_path):
    write_pictures(tmp_path / "in", 12)
    (tmp_path / "in" / "12.png").write_bytes(b"\x89PNG broken")
    blocked = {"error": {"message": "no", "code": "content_filter"}}
    server.faults = {
        1: [answer(REFUSAL)],
        2: [answer("As an AI model, I have no eyes.")],
        3: [answer("", "content_filter")],
        4: [answer(None, refusal="I will not.")],
        5: [(400, {}, blocked)],
        6: [answer("")],
        7: [answer(" \n ")],
        8: [answer("A long picture " * 9, "length")],
        9: [(413, {}, {"error": {"message": "too large"}})],
        10: [answer('A sign reads "I\'m sorry,\n\nwe cannot open".  ')],
        11: [answer("I can see a grey picture.")],
    }
    code, out, _ = call("concurrency=1")
    assert code == 0
    kinds = {"refused": (1, 2, 3, 4, 5), "empty": (6, 7), "cut": (8,), "rejected": (9,), "unreadable": (12,)}
    assert left_out(tmp_path) == {f"{number:02}.png": kind for kind, group in kinds.items() for number in group}
    assert captions(tmp_path) == {
        "00.png": caption_of(0),
        "10.png": 'A sign reads "I\'m sorry, we cannot open".',  # training takes no line breaks
        "11.png": "I can see a grey picture.",
    }
    assert server.asked() == dict.fromkeys(range(12), 1)  # none of these is worth another try
    for kind, group in kinds.items():
        assert re.search(rf"^  {len(group)} {kind}: ", out, re.MULTILINE)
    call()
    assert len(server.seen) == 12
    assert call("ask_again=true")[0] == 0
    assert server.asked() == {number: 2 if number in range(1, 10) else 1 for number in range(12)}
    assert captions(tmp_path).keys() == {f"{number:02}.png" for number in range(12)}


def test_a_wrong_key_ends_at_once_and_is_repeated_nowhere(server, call, tmp_path, monkeypatch):
    write_pictures(tmp_path / "in", 8)
    monkeypatch.setenv("TEACHER_KEY", "sk-secret-123")
    server.always = (401, {}, {"error": {"message": "Incorrect API key provided: sk-secret-123.", "code": "bad_key"}})
    code, out, err = call("api_key_env=TEACHER_KEY", "concurrency=16")
    assert code == 1
    assert "answers 401: Incorrect API key provided: ***.; set the variable that api_key_env names" in err
    assert len(server.seen) == 1
    assert server.seen[0]["authorization"] == "Bearer sk-secret-123"
    server.always = None
    assert call("api_key_env=TEACHER_KEY")[0] == 0
    written = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert b"sk-secret" not in written + (out + err).encode()


def test_without_a_key_none_is_sent_whatever_the_environment_holds(server, call, tmp_path, monkeypatch):
    write_pictures(tmp_path / "in", 1)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret-123")
    call()
    assert "secret" not in server.seen[0]["authorization"]
    server.always = 401
    write_pictures(tmp_path / "in", 2)
    assert "name the key's variable with api_key_env" in call()[2]
    monkeypatch.delenv("OPENAI_API_KEY")
    code, _, err = call("api_key_env=OPENAI_API_KEY")
    assert code == 2
    assert "api_key_env=OPENAI_API_KEY cannot be used: no such variable is set" in err


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (404, "answers 404: trouble 404; check base_url and model=teacher"),
        (403, "answers 403: trouble 403; the key may not use this model"),
        (402, "answers 402: trouble 402"),
        ((429, {}, {"error": {"message": "pay first", "code": "insufficient_quota"}}), "quota is spent: pay first"),
    ],
)
def test_what_no_image_can_pass_ends_at_once(server, call, tmp_path, fault, said):
    write_pictures(tmp_path / "in", 8)
    server.always = fault
    code, _, err = call("concurrency=8")
    assert (code, len(server.seen)) == (1, 1)
    assert said in err


def test_a_request_that_every_image_fails_with_is_no_fault_of_the_images(server, call, tmp_path):
    """A setting that the endpoint does not know is 400 for each; none may be taken for done."""
    write_pictures(tmp_path / "in", 8)
    server.always = (400, {}, {"error": {"message": "temperature is not supported"}})
    code, _, err = call()
    assert (code, len(server.seen)) == (1, 3)
    assert "takes none of the first images: 400: temperature is not supported" in err
    server.always, server.faults = None, {0: [400], 1: [400]}
    assert call()[0] == 0  # two that are rejected before the first answer are rejected for good
    assert left_out(tmp_path) == {"00.png": "rejected", "01.png": "rejected"}
    assert server.asked() == {0: 2, 1: 2, 2: 2, 3: 1, 4: 1, 5: 1, 6: 1, 7: 1}


def test_an_endpoint_that_is_down_ends_the_call(server, call, tmp_path):
    write_pictures(tmp_path / "in", 20)
    server.always = 503
    code, _, err = call("retries=1", "max_failed_in_row=3", "concurrency=2")
    assert code == 1
    assert "3 images in a row got no answer; the last: trouble 503 (2 tries)" in err
    assert len(server.seen) <= 10
    server.always = None
    assert call()[0] == 0
    assert captions(tmp_path) == one_line(*range(20))


def test_an_address_where_nothing_listens(server, call, tmp_path):
    write_pictures(tmp_path / "in", 2)
    server.close()
    code, _, err = call("retries=0", "max_failed_in_row=2")
    assert code == 1
    assert "the connection failed" in err


def test_requests_run_side_by_side_up_to_the_limit(server, call, tmp_path):
    write_pictures(tmp_path / "in", 20)
    server.delay = 0.5
    assert call("concurrency=5")[0] == 0
    assert server.most_running == 5


def test_a_budget_of_requests_holds_over_all_calls_and_counts_tries(server, call, tmp_path):
    write_pictures(tmp_path / "in", 6)
    server.faults = {0: [500], 3: [500, 500]}
    code, out, err = call("max_requests=4", "concurrency=1")
    assert (code, len(server.seen)) == (3, 4)
    assert "the budget is spent (max_requests=4: 4 requests are made), and 3 images have no answer: raise it" in err
    assert captions(tmp_path) == one_line(0, 1, 2)
    assert "3 not asked yet" in out
    assert (call("max_requests=4")[0], len(server.seen)) == (3, 4)
    # Both tries of picture 3 are spent before its answer; they count in the next call.
    assert (call("max_requests=6", "concurrency=1")[0], len(server.seen)) == (3, 6)
    assert facts(tmp_path)["requests"] == 6
    assert (call("max_requests=9", "concurrency=16")[0], len(server.seen)) == (0, 9)
    assert captions(tmp_path) == one_line(*range(6))


@pytest.mark.parametrize("concurrency", [1, 16])
def test_a_budget_of_tokens_is_not_exceeded(server, call, tmp_path, concurrency):
    write_pictures(tmp_path / "in", 30)
    server.delay = 0.02
    code, _, err = call("max_tokens_spent=2000", "max_tokens=50", f"concurrency={concurrency}")
    assert code == 3
    spent = facts(tmp_path)["prompt_tokens"] + facts(tmp_path)["completion_tokens"]
    # 120 tokens each, and the next may take 150: the last one that fits begins at 1,850 at most.
    assert spent == 120 * len(server.seen) == 120 * 16
    assert "max_tokens_spent=2000: 1,920 tokens are spent, and one more request may take 150" in err


def test_a_budget_of_tokens_needs_an_endpoint_that_counts_them(server, call, tmp_path):
    write_pictures(tmp_path / "in", 3)
    server.always = answer("A picture.", usage=None)
    code, _, err = call("max_tokens_spent=1000")
    assert (code, len(server.seen)) == (1, 1)
    assert "name no tokens: give max_requests instead" in err
    assert call()[0] == 0


def start(server, tmp_path, *settings):
    arguments = [tmp_path / "in", tmp_path / "out", f"base_url={server.url}", "model=teacher", *settings]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "vlv", "data", "caption", *map(str, arguments)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a background job's children ignore it
    )  # fmt: skip


def wait_for(condition):
    until = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.01)


def answered(tmp_path):
    journal = tmp_path / "out" / "journal" / "answers_0.jsonl"
    return [json.loads(line)["name"] for line in journal.read_text().splitlines()] if journal.exists() else []


def test_a_killed_call_goes_on_and_asks_for_no_answered_image_again(server, call, tmp_path):
    names = write_pictures(tmp_path / "in", 40)
    server.delay = 0.1
    process = start(server, tmp_path, "concurrency=3")
    wait_for(lambda: len(answered(tmp_path)) >= 10)
    process.kill()
    process.communicate()
    kept, asked = answered(tmp_path), dict(server.asked())
    assert 10 <= len(kept) < 40
    with (tmp_path / "out" / "journal" / "answers_0.jsonl").open("ab") as file:
        file.write(b'{"run": "x", "name": "39.p')  # a line that the kill tore
    server.delay = 0
    code, out, _ = call()
    assert code == 0
    assert f"40 images, {len(kept)} of them have an answer" in out
    assert sorted(answered_whole(tmp_path)) == names  # each exactly once
    assert captions(tmp_path) == one_line(*range(40))
    for name in kept:
        assert server.asked()[int(name[:2])] == asked[int(name[:2])] == 1
    # Those that were under way when it was killed, three at most, were asked twice.
    assert len(server.seen) <= 43


def answered_whole(tmp_path):
    lines = (tmp_path / "out" / "journal" / "answers_0.jsonl").read_text().splitlines()
    return [json.loads(line)["name"] for line in lines if line.endswith("}")]


def test_answers_reach_the_disk_while_the_call_runs(server, call, tmp_path, monkeypatch):
    write_pictures(tmp_path / "in", 6)
    server.delay = 0.1
    synced, fsync = [], os.fsync

    def record(file):
        if os.readlink(f"/proc/self/fd/{file}").endswith("answers_0.jsonl"):
            synced.append(os.fstat(file).st_size)
        fsync(file)

    monkeypatch.setattr("vlv.inference.journal.os.fsync", record)
    monkeypatch.setattr("vlv.datatools.captioning._SYNC_SECONDS", 0.15)
    assert call("concurrency=1")[0] == 0
    size = (tmp_path / "out" / "journal" / "answers_0.jsonl").stat().st_size
    assert len(set(synced)) >= 2  # in batches, and not once at the end
    assert synced[-1] == size


def test_an_interrupt_keeps_what_is_answered(server, tmp_path):
    write_pictures(tmp_path / "in", 400)  # more than a busy machine gets done before the signal
    server.delay = 0.1
    process = start(server, tmp_path, "concurrency=2")
    wait_for(lambda: len(answered(tmp_path)) >= 4)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.splitlines()[-1].startswith("error: interrupted; the same call goes on")
    assert captions(tmp_path).keys() == set(answered(tmp_path))


def test_a_second_call_at_the_same_time_is_refused(server, call, tmp_path):
    write_pictures(tmp_path / "in", 10)
    server.delay = 0.3
    process = start(server, tmp_path, "concurrency=1")
    wait_for(lambda: len(server.seen) >= 1)
    code, _, err = call()
    assert code == 2
    assert f"is in use by process {process.pid}" in err
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("temperature=0.7", "temperature was 0.2 and is 0.7"),
        ("model=other", 'model was "teacher" and is "other"'),
        ("max_side=512", "max_side was 1024 and is 512"),
        ("prompt_file={}/prompt.txt", 'is "What is it?"'),
    ],
)
def test_other_settings_in_the_same_destination_are_refused(server, call, tmp_path, setting, said):
    write_pictures(tmp_path / "in", 2)
    (tmp_path / "prompt.txt").write_text("What is it?\n")
    assert call()[0] == 0
    before = captions(tmp_path)
    code, _, err = call(setting.format(tmp_path))
    assert code == 2
    assert said in err
    assert "give the former values, or another destination" in err
    assert (captions(tmp_path), len(server.seen)) == (before, 2)
    assert call(setting.format(tmp_path), out="another")[0] == 0


def test_settings_that_change_no_caption_may_change(server, call, tmp_path):
    write_pictures(tmp_path / "in", 2)
    assert call()[0] == 0
    write_pictures(tmp_path / "in", 4)  # images that came since are captioned
    assert call("concurrency=1", "timeout=9", "retries=0", "price_prompt=2")[0] == 0
    assert server.asked() == {0: 1, 1: 1, 2: 1, 3: 1}
    assert captions(tmp_path) == one_line(*range(4))


def test_the_cost_and_the_lengths(server, call, tmp_path):
    write_pictures(tmp_path / "in", 4)
    server.faults = {number: [answer("word " * count)] for number, count in enumerate((10, 30, 30, 60))}
    out = call("price_prompt=2.5", "price_completion=10")[1]
    # 4 images of 100 and 20 tokens: (400 x 2.5 + 80 x 10) / 10^6.
    assert facts(tmp_path)["cost"] == pytest.approx(0.0018)
    assert facts(tmp_path)["cost_per_1000_images"] == pytest.approx(0.45)
    assert "0.45 for 1,000 images" in out
    words = facts(tmp_path)["words"]
    bins = {item["label"]: item["count"] for item in words["bins"] if item["count"]}
    assert bins == {"10 to 14": 1, "30 to 34": 2, "60 to 64": 1}
    assert (words["least"], words["median"], words["mean"], words["largest"]) == (10, 30, 32.5, 60)


def test_the_parquet_file_is_read_as_pairs(server, call, tmp_path):
    write_pictures(tmp_path / "in", 5)
    server.faults = {2: [answer(REFUSAL)], 3: [500]}
    assert call("retries=0", f"parquet={tmp_path}/pairs/p.parquet")[0] == 1
    assert not (tmp_path / "pairs").exists()  # not before every image is asked
    assert call(f"parquet={tmp_path}/pairs/p.parquet")[0] == 0
    source = open_source(str(tmp_path / "pairs" / "p.parquet"), SourceSettings(captions=True))
    pairs = [source.read(index) for index in range(len(source))]
    assert [pair.caption for pair in pairs] == [caption_of(number) for number in (0, 1, 3, 4)]
    assert [pair.image for pair in pairs] == [(tmp_path / "in" / f"{n:02}.png").read_bytes() for n in (0, 1, 3, 4)]


def test_raw_pixels_of_a_parquet_file_are_captioned_and_written(server, call, tmp_path):
    import pyarrow as pa

    (tmp_path / "in").mkdir()
    images = [np.full((3, 8, 6), 5 * number, np.uint8).tobytes() for number in range(3)]
    pq.write_table(pa.table({"image": images}), tmp_path / "in" / "raw.parquet")
    assert call("raw_image_size=[8,6]", f"parquet={tmp_path}/p.parquet")[0] == 0
    assert list(captions(tmp_path).values()) == [caption_of(number) for number in range(3)]
    rows = pq.read_table(tmp_path / "p.parquet").to_pylist()
    sizes = [Image.open(io.BytesIO(row["image"])).size for row in rows]
    assert (sizes, [row["caption"] for row in rows]) == ([(6, 8)] * 3, [caption_of(number) for number in range(3)])


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (["base_url=localhost:8000"], "base_url=localhost:8000 cannot be used: give the address up to"),
        (["base_url=http://x/v1/chat/completions"], "cannot be used: give the address up to chat/completions"),
        (["prompt_file=nowhere.txt"], "prompt_file=nowhere.txt cannot be used: give a UTF-8 text file"),
        (["max_requests=0"], "max_requests=0 cannot be used: give at least 1"),
        (["parquet=pairs"], "parquet=pairs cannot be used: give a file that ends in .parquet"),
    ],
)
def test_calls_that_cannot_work(server, call, tmp_path, settings, said):
    write_pictures(tmp_path / "in", 1)
    code, _, err = call(*settings)
    assert (code, server.seen) == (2, [])
    assert said in err


def test_images_that_are_not_there(call, tmp_path):
    code, _, err = call()
    assert code == 2
    assert "does not exist" in err


def test_the_client_library_is_named_where_it_is_missing(call, tmp_path, monkeypatch):
    write_pictures(tmp_path / "in", 1)
    monkeypatch.setattr("vlv.extras.find_spec", lambda name: None)
    assert "vlv data caption needs the package openai: pip install 'vlv[caption-api]'" in call()[2]
