import json

import pyarrow.parquet as pq
import pytest

from scripts import make_parquet
from vlv.data import SourceSettings, open_source


def call(*arguments):
    make_parquet.main([str(argument) for argument in arguments])


def refused(capsys, *arguments):
    """The one line of a refused call."""
    with pytest.raises(SystemExit) as stopped:
        call(*arguments)
    assert stopped.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


@pytest.fixture
def folder(tmp_path):
    """Seven files in two folders; the converter never decodes them."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    names = [f"{n}.jpg" for n in range(5)] + ["sub/é.png", "sub/x.webp"]
    for name in names:
        (tmp_path / "in" / name).write_bytes(f"bytes of {name}".encode())
    (tmp_path / "in" / "captions.json").write_text(json.dumps({name: f"caption of {name}" for name in names}))
    return tmp_path / "in"


def test_bytes_and_captions_arrive_as_they_are_on_disk(sample_photos, tmp_path, capsys):
    out = tmp_path / "made" / "photos.parquet"
    call(sample_photos, out)
    captions = json.loads((sample_photos / "captions.json").read_text())
    rows = pq.read_table(out).to_pylist()
    assert [row["caption"] for row in rows] == [captions[name] for name in sorted(captions)]
    assert [row["image"] for row in rows] == [(sample_photos / name).read_bytes() for name in sorted(captions)]
    assert "4 of 4 images" in capsys.readouterr().out
    assert [path.name for path in out.parent.iterdir()] == ["photos.parquet"]


def test_the_loader_reads_it(folder, tmp_path):
    call(folder, tmp_path / "o.parquet", "row_group_size=3")
    source = open_source(str(tmp_path / "o.parquet"), SourceSettings(captions=True))
    assert source.shard_sizes.tolist() == [3, 3, 1]
    assert source.read(5) == (b"bytes of sub/x.webp", "caption of sub/x.webp")
    assert source.read(6).caption == "caption of sub/é.png"


def test_row_groups_are_written_before_the_next_images_are_read(folder, tmp_path, monkeypatch):
    held, read = [], make_parquet._row_groups

    def spy(*arguments):
        for images, captions in read(*arguments):
            held.append(len(images))
            yield images, captions
            assert list(tmp_path.glob(".*.tmp"))

    monkeypatch.setattr(make_parquet, "_row_groups", spy)
    call(folder, tmp_path / "o.parquet", "row_group_size=2")
    assert held == [2, 2, 2, 1]


def test_says_what_was_left_out(folder, tmp_path, capsys):
    lines = [{"file_name": "./1.jpg", "caption": "one"}, {"file_name": "nowhere.jpg", "caption": "none"}]
    lines += [{"file_name": str(folder / "2.jpg"), "caption": "two"}, {"file_name": "gone.png", "caption": "link"}]
    lines += [{"file_name": "3.jpg", "caption": "three"}]
    (folder / "gone.png").symlink_to(tmp_path / "absent")
    (folder / "3.jpg").write_bytes(b"")
    captions = tmp_path / "other.jsonl"
    captions.write_text("\n".join(map(json.dumps, lines)))
    call(folder, tmp_path / "o.parquet", f"captions={captions}")
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "4 images have no caption and are left out: 0.jpg, 4.jpg, sub/x.webp, sub/é.png"
    assert printed[1] == "1 captions have no image and are left out: nowhere.jpg"
    assert printed[2].startswith("2 images cannot be read and are left out: 3.jpg: the file is empty, gone.png: ")
    assert printed[3].startswith("2 of 4 images with a caption in ")
    assert pq.read_table(tmp_path / "o.parquet")["caption"].to_pylist() == ["one", "two"]


def test_refuses_with_one_line(folder, tmp_path, capsys):
    out = tmp_path / "o.parquet"
    assert "is not a folder" in refused(capsys, folder / "absent", out)
    assert "ends in .parquet" in refused(capsys, folder, tmp_path / "o.pq")
    assert "row_group_size=0" in refused(capsys, folder, out, "row_group_size=0")
    assert "absent.json" in refused(capsys, folder, out, f"captions={tmp_path / 'absent.json'}")
    (folder / "captions.json").write_text("{")
    assert "not valid JSON" in refused(capsys, folder, out)
    (folder / "captions.json").write_text('{"in/0.jpg": "a caption"}')
    assert "names none of the 7 images" in refused(capsys, folder, out)
    (folder / "captions.json").unlink()
    assert "name the file with captions=FILE" in refused(capsys, folder, out)
    assert not out.exists()


def test_a_failure_leaves_the_earlier_file(folder, tmp_path, capsys):
    out = tmp_path / "o.parquet"
    out.write_bytes(b"earlier")
    for image in folder.rglob("*.*"):
        if image.suffix != ".json":
            image.write_bytes(b"")
    assert "not one image with a caption can be read" in refused(capsys, folder, out)
    assert out.read_bytes() == b"earlier"
    assert not list(tmp_path.glob(".*.tmp"))
