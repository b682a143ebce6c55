"""Statistics as img2dataset 1.47 writes them, summed up by kind."""

import json

import pytest

from vlv.datatools.download_statistics import downloads, kind_of_failure, lines, remove_torn


def write(folder, shard, **counts):
    written = counts.get("success", 0)
    stats = {"count": sum(counts.values()), "successes": written, "failed_to_download": 0, "failed_to_resize": 0}
    (folder / f"{shard:05}_stats.json").write_text(json.dumps({**stats, "duration": 1.0, "status_dict": counts}))
    (folder / f"{shard:05}.tar").write_bytes(bytes(1_000_000))


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("HTTP Error 404: Not Found", "HTTP 404"),
        ("HTTP Error 503: Service Unavailable", "HTTP 503"),
        ("timed out", "time-out"),
        ("<urlopen error _ssl.c:989: The handshake operation timed out>", "time-out"),
        ("<urlopen error [Errno -2] Name or service not known>", "host not found"),
        ("<urlopen error [Errno -3] Temporary failure in name resolution>", "host not found"),
        ("<urlopen error [SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed>", "TLS"),
        ("<urlopen error [Errno 111] Connection refused>", "connection failed"),
        ("[Errno 104] Connection reset by peer", "connection failed"),
        ("IncompleteRead(5 bytes read, 10 more expected)", "connection failed"),
        ("Use of image disallowed by X-Robots-Tag directive", "refused by X-Robots-Tag"),
        ("Image decoding error", "no image, or a damaged one"),
        ("image too small", "smaller than the metadata says"),
        ("aspect ratio too large", "narrower than the metadata says"),
        ("unknown url type: 'x'", "other: unknown url type: 'x'"),
    ],
)
def test_messages_have_a_kind(message, kind):
    assert kind_of_failure(message) == kind


def test_shards_are_summed_up(tmp_path):
    write(tmp_path, 0, **{"success": 7, "HTTP Error 404: Not Found": 2, "Image decoding error": 1})
    write(tmp_path, 1, **{"success": 3, "HTTP Error 404: Gone": 1, "timed out": 1})
    (tmp_path / "00002.tar").write_bytes(bytes(5))  # a shard that a kill cut short
    found = downloads(tmp_path)
    assert (found.shards, found.asked, found.written, found.num_bytes) == (2, 15, 10, 2_000_000)
    assert found.failures == {"HTTP 404": 3, "no image, or a damaged one": 1, "time-out": 1}
    shown = lines(found)
    assert shown[:2] == ["2 shards: 10 of 15 images (66.7%), 2.0 MB", "  3  HTTP 404"]


@pytest.mark.parametrize("torn", ["", '{"count": 1', '{"count": 1}'])
def test_torn_statistics_are_removed_so_that_the_shard_is_fetched_again(tmp_path, torn):
    write(tmp_path, 0, success=2)
    (tmp_path / "00001_stats.json").write_text(torn)
    assert downloads(tmp_path).asked == 2
    assert remove_torn(tmp_path) == 1
    assert sorted(path.name for path in tmp_path.glob("*.json")) == ["00000_stats.json"]


def test_an_empty_folder(tmp_path):
    assert lines(downloads(tmp_path)) == ["0 shards: 0 of 0 images (0.0%), 0.0 MB"]
