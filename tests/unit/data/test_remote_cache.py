"""The bounded cache of remote bytes: its limit, its order, several processes at once, and processes that are killed."""

import hashlib
import multiprocessing
import os
import signal
import time

import pytest

from vlv.data.remote_cache import RemoteCache

FORK = multiprocessing.get_context("fork")


def key(number):
    return hashlib.sha256(str(number).encode()).hexdigest()[:40]


def content(number, size=4000):
    return bytes([number % 256]) * size


def held(folder):
    """Bytes that the cache holds, while other processes may change it."""
    total = 0
    for path in folder.glob("??/*"):
        try:
            total += 0 if path.name.startswith(".") else -(-path.stat().st_size // 4096) * 4096
        except FileNotFoundError:
            continue
    return total


def refuse():
    raise AssertionError("asked for again")


def test_bytes_are_fetched_once(tmp_path):
    cache = RemoteCache(tmp_path / "deep" / "cache", 1 << 20)
    assert cache.get(key(1), lambda: b"one") == b"one"
    assert cache.get(key(1), refuse) == b"one"
    assert RemoteCache(tmp_path / "deep" / "cache", 1 << 20).get(key(1), refuse) == b"one"
    with pytest.raises(KeyError):
        cache.get(key(2), lambda: {}[2])
    assert cache.get(key(2), lambda: b"") == b""


def test_the_least_recently_read_go_and_the_limit_holds(tmp_path):
    cache = RemoteCache(tmp_path, 10 * 4096)
    for number in range(10):
        cache.get(key(number), lambda number=number: content(number))
        os.utime(tmp_path / key(number)[:2] / key(number), ns=(number, number))
    assert held(tmp_path) == 10 * 4096
    cache.get(key(0), refuse)  # read last now
    cache.get(key(10), lambda: content(10))
    assert held(tmp_path) <= 10 * 4096
    for number in (0, 10, 9, 8):
        assert cache.get(key(number), refuse) == content(number)
    fetched = []
    for number in (1, 2):
        cache.get(key(number), lambda number=number: fetched.append(number) or content(number))
    assert fetched == [1, 2]


def test_what_is_too_large_is_not_kept(tmp_path):
    cache = RemoteCache(tmp_path, 100_000)
    assert cache.get(key(1), lambda: bytes(30_000)) == bytes(30_000)
    assert held(tmp_path) == 0


@pytest.mark.parametrize("damage", [b"", b"abc", bytes(1004)])
def test_what_a_power_loss_left_is_fetched_again(tmp_path, damage):
    cache = RemoteCache(tmp_path, 1 << 20)
    cache.get(key(1), lambda: content(1, 1000))
    (tmp_path / key(1)[:2] / key(1)).write_bytes(damage)
    assert cache.get(key(1), lambda: content(1, 1000)) == content(1, 1000)
    assert cache.get(key(1), refuse) == content(1, 1000)


def test_a_disk_that_cannot_be_written_costs_a_request(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    cache = RemoteCache(tmp_path / "file" / "cache", 1 << 20)
    assert [cache.get(key(1), lambda: b"one") for _ in range(2)] == [b"one"] * 2
    assert caplog.text.count("cannot keep what is read of remote data") == 1


def work(folder, seed, limit):
    cache = RemoteCache(folder, limit)
    for turn in range(150):
        number = (seed * 31 + turn * 7) % 60
        assert cache.get(key(number), lambda number=number: content(number)) == content(number)


def test_processes_share_it_and_hold_the_limit(tmp_path):
    limit = 20 * 4096
    processes = [FORK.Process(target=work, args=(tmp_path, seed, limit)) for seed in range(4)]
    for process in processes:
        process.start()
    largest = 0
    while any(process.is_alive() for process in processes):
        largest = max(largest, held(tmp_path))
        time.sleep(0.01)
    assert [process.exitcode for process in processes] == [0] * 4
    assert 0 < largest <= limit
    assert held(tmp_path) <= limit


def work_for_ever(folder, seed, limit):
    while True:
        work(folder, seed, limit)
        seed += 1


def test_a_killed_process_leaves_a_cache_that_works(tmp_path):
    limit = 20 * 4096
    for round_ in range(5):
        processes = [FORK.Process(target=work_for_ever, args=(tmp_path, seed, limit)) for seed in range(2)]
        for process in processes:
            process.start()
        time.sleep(0.1 + 0.02 * round_)
        for process in processes:
            os.kill(process.pid, signal.SIGKILL)
            process.join()
    folder = tmp_path / key(1)[:2]
    folder.mkdir(exist_ok=True)
    (folder / ".abandoned.tmp").write_bytes(bytes(9000))
    work(tmp_path, 0, limit)
    assert held(tmp_path) <= limit
    assert not list(tmp_path.glob("??/.*"))
