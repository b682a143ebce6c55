import os
import time

import pytest

from vlv.data.files import (
    describe_kinds,
    display_name,
    expand_braces,
    expand_pattern,
    find_images,
    is_stream,
    pack_names,
    scan_folder,
)
from vlv.data.folder import FolderSource
from vlv.data.sample import BadSample

from .pictures import encode, picture


def names_of(array):
    return [display_name(name) for name in array.to_pylist()]


def test_scan_is_recursive_sorted_and_by_kind(folder):
    (folder / "x.tar").write_bytes(b"")
    found = scan_folder(str(folder))
    assert names_of(found.files["folder"]) == ["a.jpg", "b.png", "e.tiff", "sub/c.PNG", "sub/deep/d.webp"]
    assert names_of(found.files["webdataset"]) == ["x.tar"]
    assert len(found.files["parquet"]) == 0


def test_what_cannot_be_read_is_counted_by_kind(folder):
    for name in ("x.heic", "sub/y.HEIC", "z.tar.gz", "README", "captions.json", ".hidden.heic"):
        (folder / name).write_bytes(b"")
    found = scan_folder(str(folder))
    assert found.others == {".heic": 2, ".tar.gz": 1, "without an extension": 1}
    assert describe_kinds(found.others) == "2 .heic, 1 .tar.gz, 1 without an extension"


def test_scan_follows_links_but_not_in_circles(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "f.png").write_bytes(b"")
    (folder / "link").symlink_to(elsewhere)
    (folder / "sub" / "circle").symlink_to(folder)
    (folder / "gone.png").symlink_to(tmp_path / "nowhere")
    names = names_of(scan_folder(str(folder)).files["folder"])
    assert {"link/f.png", "gone.png"} <= set(names)
    assert len(names) == 7


def test_each_folder_is_read_once_whatever_links_lead_to_it(tmp_path):
    for number in range(12):  # each linked from every other: by paths there are millions of ways through them
        (tmp_path / f"{number:02}").mkdir()
        (tmp_path / f"{number:02}" / "a.png").write_bytes(b"")
        for other in range(12):
            (tmp_path / f"{number:02}" / f"to_{other:02}").symlink_to(tmp_path / f"{other:02}")
    (tmp_path / "00" / "outside").symlink_to(tmp_path.parent / f"{tmp_path.name}_outside")
    (tmp_path.parent / f"{tmp_path.name}_outside").mkdir()
    (tmp_path.parent / f"{tmp_path.name}_outside" / "b.png").write_bytes(b"")
    (tmp_path / "05" / "again").symlink_to(tmp_path.parent / f"{tmp_path.name}_outside")
    names = names_of(scan_folder(str(tmp_path)).files["folder"])
    assert names == ["00/a.png", "00/outside/b.png", *(f"{number:02}/a.png" for number in range(1, 12))]


def test_a_link_to_itself_spoils_nothing_but_itself(folder):
    before = names_of(scan_folder(str(folder)).files["folder"])
    (folder / "self.png").symlink_to(folder / "self.png")
    names = names_of(scan_folder(str(folder)).files["folder"])
    assert set(names) == {*before, "self.png"}
    source = FolderSource(str(folder), names)
    with pytest.raises(BadSample, match="cannot be read: Too many levels of symbolic links"):
        source.read(names.index("self.png"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a.tar", ["a.tar"]),
        ("a-{08..10}.tar", ["a-08.tar", "a-09.tar", "a-10.tar"]),
        ("a-{9..11}", ["a-9", "a-10", "a-11"]),
        ("{a,b}{0..1}, c", ["a0", "a1", "b0", "b1", "c"]),
        ("odd{name}.tar", ["odd{name}.tar"]),
        ("a-{000..010..5}.tar", ["a-000.tar", "a-005.tar", "a-010.tar"]),
        ("{a,{b,c}d}.tar,", ["a.tar", "bd.tar", "cd.tar"]),
    ],
)
def test_expand_braces(text, expected):
    assert expand_braces(text) == expected


def test_a_brace_without_its_other_half_is_named():
    with pytest.raises(ValueError, match=r"a-\{0\.\.3\.tar has a brace without its other half"):
        expand_braces("a-{0..3.tar")


def test_expand_pattern(folder):
    assert expand_pattern(f"{folder}/*.png") == [f"{folder}/b.png"]
    assert expand_pattern(f"{folder}/{{b.png,a.jpg}}") == [f"{folder}/b.png", f"{folder}/a.jpg"]
    with pytest.raises(ValueError, match=r"names .*/z\.png, which does not exist; accepted are a folder"):
        expand_pattern(f"{folder}/{{b,z}}.png")
    with pytest.raises(ValueError, match="does not exist"):
        expand_pattern(f"{folder}/*.gif")


def test_find_images(folder):
    everything = ["a.jpg", "b.png", "e.tiff", "sub/c.PNG", "sub/deep/d.webp"]
    assert find_images(str(folder)) == (str(folder), everything)
    assert find_images(str(folder / "b.png")) == (str(folder), ["b.png"])
    assert find_images(f"{folder}/**/*") == (str(folder), everything)
    assert find_images(f"{folder}/su*/*.PNG") == (str(folder), ["sub/c.PNG"])
    assert find_images(f"{folder}/{{b.png,a.jpg}}") == (str(folder), ["a.jpg", "b.png"])


@pytest.mark.parametrize("name", ["my [1]", "a,b", "{x}", "{a,b}", "what?", "[ab]*"])
def test_special_characters_of_a_folder_that_is_there_are_its_own(folder, name):
    odd = folder.rename(folder.with_name(name))
    assert find_images(f"{odd}/*.png") == (str(odd), ["b.png"])
    assert find_images(f"{odd}/**/{{c.PNG,d.webp}}") == (str(odd), ["sub/c.PNG", "sub/deep/d.webp"])
    assert find_images(f"{odd}/sub/*")[1] == ["c.PNG"]
    assert len(expand_pattern(f"{odd}/{{b.png,a.jpg}}")) == 2
    with pytest.raises(ValueError, match="does not exist"):
        expand_pattern(f"{odd}/{{b.png,z.png}}")


def test_find_images_reads_a_subset(folder):
    root, names = find_images(str(folder))
    source = FolderSource(root, names[1:3])
    assert [source.name(index) for index in range(len(source))] == ["b.png", "e.tiff"]
    assert source.read(0).image == (folder / "b.png").read_bytes()


def test_find_images_in_the_current_folder(folder, monkeypatch):
    monkeypatch.chdir(folder)
    assert find_images("a.jpg") == (".", ["a.jpg"])
    assert find_images("*.png") == (".", ["b.png"])


@pytest.mark.parametrize(("path", "match"), [("gone", "does not exist"), ("none*", "matches no image"), ("", "exist")])
def test_find_images_refuses(tmp_path, path, match):
    with pytest.raises(ValueError, match=f"{path.replace('*', '.')}.*{match}"):
        find_images(str(tmp_path / path) if path else "")


def test_find_images_refuses_a_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(ValueError, match="holds no image: give an image, a folder"):
        find_images(str(tmp_path))


def test_names_that_are_not_utf8(tmp_path):
    with open(os.path.join(os.fsencode(tmp_path), b"\xff.png"), "wb") as file:
        file.write(encode(picture()))
    source = FolderSource(*find_images(str(tmp_path)))
    assert source.name(0) == "\\xff.png"
    assert source.read(0).image


def test_two_million_names_are_compact_and_quick():
    names = [f"{number // 1000:05d}/{number:09d}.jpg" for number in range(2_000_000)]
    start = time.perf_counter()
    source = FolderSource("/data", pack_names(names))
    assert time.perf_counter() - start < 15
    assert source._names.nbytes < 70_000_000
    assert source.shard_sizes.tolist() == [1_000_000, 1_000_000]
    assert source.name(1_999_999) == names[-1]


def test_images_behind_a_url_are_training_data_alone():
    with pytest.raises(ValueError, match=r"s3://b/x is a URL, from which training reads but not this command"):
        find_images("s3://b/x")


def test_streams():
    assert is_stream("pipe:cat a.tar")
    assert is_stream("stream:https://host/{0..3}.tar")
    assert not is_stream("https://host/{0..3}.tar")
    assert not is_stream("data/a.tar")
