"""Streams from a real server on loopback that misbehaves, and from commands."""

import pytest

from vlv.data.order import BatchPlan, training_positions
from vlv.data.preparation import SamplePreparation
from vlv.data.streaming import HeldStream, StreamedDataset, StreamSettings
from vlv.data.transport import Patience, StreamBrokenError, open_bytes

from .pictures import encode, picture, write_tar
from .server import serve

QUICK = Patience(timeout=0.3, retries=2, pause=0.01)


@pytest.fixture
def server(tmp_path):
    with serve() as server:
        for shard in range(3):
            write_tar(tmp_path / "x.tar", [(f"{shard}{n}.png", encode(picture(10 * shard + n))) for n in range(4)])
            server.files[f"{shard}.tar"] = (tmp_path / "x.tar").read_bytes()
        yield server


def content(url, patience=QUICK):
    with open_bytes(url, patience) as stream:
        return b"".join(iter(lambda: stream.read(1000), b""))


def names(server, plan, steps=3):
    settings = StreamSettings(seed=3, window=5, patience=QUICK)
    positions = training_positions(plan, 0, steps)
    path = f"{server.url}/{{0..2}}.tar"
    from vlv.models.image_processor import VLVImageProcessor

    dataset = StreamedDataset(path, positions, SamplePreparation(VLVImageProcessor(8, 8)), settings)
    return [name for batch in dataset for name in batch["names"]]


@pytest.mark.parametrize("fault", ["stall", "cut", 503])
@pytest.mark.parametrize(("has_ranges", "has_lengths"), [(True, True), (False, True), (True, False), (False, False)])
def test_a_fault_that_passes_costs_nothing(server, fault, has_ranges, has_lengths):
    server.has_ranges, server.has_lengths = has_ranges, has_lengths
    server.faults["1.tar"] = [fault, fault]
    assert content(f"{server.url}/1.tar") == server.files["1.tar"]
    assert len(server.requests) == 3


@pytest.mark.parametrize(("fault", "reason"), [("stall", "timed out"), ("cut", "bytes"), (503, "HTTP Error 503")])
def test_a_fault_that_stays_is_a_clear_stop(server, fault, reason):
    server.faults["1.tar"] = [fault] * 9
    with pytest.raises(StreamBrokenError, match=rf"/1\.tar cannot be read at byte \d+: .*{reason}"):
        content(f"{server.url}/1.tar")
    assert len(server.requests) == 3


def test_a_connection_that_ends_early_is_seen_without_a_length(server):
    """A tar ends with zeros. A process that took the early end for the shard's would be out of step with the others."""
    server.has_lengths = False
    server.faults["1.tar"] = ["cut"] * 9
    with pytest.raises(StreamBrokenError, match=r"/1\.tar cannot be read at byte \d+: .*before the end of the archive"):
        content(f"{server.url}/1.tar")


def test_what_is_not_there_is_not_asked_for_again(server):
    server.faults["1.tar"] = [404] * 9
    with pytest.raises(StreamBrokenError, match="HTTP Error 404"):
        content(f"{server.url}/1.tar")
    assert len(server.requests) == 1


def test_a_fault_of_one_process_leaves_the_processes_in_step(server):
    """A 404 or a cut that one of two processes met made the rest of its positions other samples than they were."""
    alone = names(server, BatchPlan(4, 1, 0, 4))
    shares = [names(server, BatchPlan(4, 2, 0, 2))]
    server.faults["1.tar"] = ["cut", 503]
    shares.append(names(server, BatchPlan(4, 2, 1, 2)))
    assert sorted(shares[0] + shares[1]) == sorted(alone)
    assert len(set(alone)) == 12
    server.faults["1.tar"] = [404]
    with pytest.raises(StreamBrokenError, match=r"/1\.tar cannot be read at byte 0: HTTP Error 404"):
        names(server, BatchPlan(4, 2, 1, 2), steps=3)


def test_commands():
    assert content("pipe:printf abc") == b"abc"
    with pytest.raises(StreamBrokenError, match=r"nothing came for 0\.3 s from pipe:sleep 5"):
        content("pipe:sleep 5")
    with pytest.raises(StreamBrokenError, match="status 3 at the end of pipe:sh -c 'printf abc; exit 3'"):
        content("pipe:sh -c 'printf abc; exit 3'")


def test_a_command_is_no_shell(tmp_path, monkeypatch):
    monkeypatch.setenv("CONTENT", "a b;c")
    assert content("pipe:printf %s $CONTENT | cat | tr a x") == b"x b;c"
    assert content("pipe:CONTENT=own printenv CONTENT") == b"own\n"
    assert content("pipe:head -c 3 /dev/zero | head -c 2") == bytes(2)
    for command, reason in (
        (f"printf abc; touch {tmp_path}/made", "; has no meaning without a shell: quote it, or put the commands into"),
        (f"printf abc && touch {tmp_path}/made", "&& has no meaning"),
        (f"printf abc > {tmp_path}/made", "> has no meaning"),
        (f"printf $(touch {tmp_path}/made)", r"\( has no meaning"),
        ("printf 'abc", "No closing quotation"),
        ("printf abc |", "a program is missing"),
        ("no-such-program-here a.tar", "No such file or directory: 'no-such-program-here'"),
    ):
        with pytest.raises(StreamBrokenError, match=rf"cannot be run \(.*{reason}"):
            content(f"pipe:{command}")
    assert not (tmp_path / "made").exists()


def test_a_program_that_fails_before_another_is_a_failure():
    with pytest.raises(StreamBrokenError, match="status 7 at the end"):
        content("pipe:sh -c 'printf abc; exit 7' | cat")


def test_the_first_samples_of_a_stream_are_held(server):
    source = HeldStream(f"{server.url}/{{0..2}}.tar", 6, StreamSettings(seed=0, patience=QUICK))
    expected = ["0.tar/00.png", "0.tar/01.png", "0.tar/02.png", "0.tar/03.png", "1.tar/10.png", "1.tar/11.png"]
    assert [source.name(index) for index in range(len(source))] == expected
    assert source.read(5).image == encode(picture(11))
    assert source.shard_sizes.tolist() == [6]
