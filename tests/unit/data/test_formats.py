"""A data format is one file and one entry in the table."""

import sys
import types
import zipfile
from typing import get_args, get_type_hints

import numpy as np
import pytest

from vlv.config.groups import DataConfig
from vlv.data import formats
from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.formats import DataFormat, Format, SourceSettings, accepted
from vlv.data.order import SampleOrder
from vlv.data.preparation import SamplePreparation
from vlv.data.sample import RawSample
from vlv.data.sources import check_source, open_source

from .pictures import encode, picture


class ZipSource:
    """What the file of a new format holds: images of .zip archives, each archive a shard."""

    pool_shards = 1

    def __init__(self, files):
        self._archives = [f"{files.root}/{name.decode()}" for name in files.names.to_pylist()]
        self._members = [(path, name) for path in self._archives for name in zipfile.ZipFile(path).namelist()]
        counts = [len(zipfile.ZipFile(path).namelist()) for path in self._archives]
        self.shard_sizes = np.array(counts, dtype=np.int64)

    def __len__(self):
        return len(self._members)

    def name(self, index):
        return "/".join(self._members[index])

    def read(self, index):
        path, name = self._members[index]
        return RawSample(zipfile.ZipFile(path).read(name), None)


def check_files(files, settings):
    if settings.captions:
        raise ValueError(f"{files.path}: zip archives hold no captions")


@pytest.fixture
def zip_format(monkeypatch):
    module = types.ModuleType("zip_format")
    module.open_files = lambda files, settings: ZipSource(files)
    module.check_files = check_files
    module.has_images = lambda files, settings: True
    monkeypatch.setitem(sys.modules, "zip_format", module)
    entry = Format(frozenset({"zip"}), ".zip archive", ".zip archives", "zip_format")
    monkeypatch.setitem(formats.FORMATS, "zip", entry)


def test_a_new_format_is_found_named_read_and_trained_on(tmp_path, processor, zip_format):
    for number in range(2):
        with zipfile.ZipFile(tmp_path / f"{number}.zip", "w") as archive:
            archive.writestr("a.png", encode(picture(number)))
            archive.writestr("b.png", encode(picture(number + 2)))
    for path in (tmp_path, f"{tmp_path}/{{0..1}}.zip"):
        assert len(open_source(str(path))) == 4
    source = open_source(str(tmp_path), SourceSettings(data_format="zip"))
    assert source.shard_sizes.tolist() == [2, 2]
    dataset = OrderedDataset(source, SampleOrder(source.shard_sizes, 0, 4), SamplePreparation(processor))
    (batch,) = build_loader(dataset, [[0, 1, 2, 3]], 0, False)
    assert batch["weights"].tolist() == [1, 1, 1, 1]
    with pytest.raises(ValueError, match="zip archives hold no captions"):
        check_source(str(tmp_path), SourceSettings(captions=True))
    with pytest.raises(
        ValueError, match=r"holds no image \(there are 2 \.zip archives: set data_format\).*\.zip archives"
    ):
        open_source(str(tmp_path), SourceSettings(data_format="folder"))


def test_settings_and_table_name_the_same_formats():
    assert set(get_args(DataFormat)) == {"auto", *formats.FORMATS}
    assert get_type_hints(DataConfig)["data_format"] == DataFormat


@pytest.mark.parametrize("name", formats.FORMATS)
def test_each_entry_is_complete(name):
    module = formats.FORMATS[name].load()
    assert all(callable(getattr(module, part)) for part in ("open_files", "check_files", "has_images"))
    assert formats.FORMATS[name].accepted in accepted()
    claimed = [ending for entry in formats.FORMATS.values() for ending in entry.extensions]
    assert len(claimed) == len(set(claimed))
