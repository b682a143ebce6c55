"""What is no matter of a sample ends a tool, as it ends a training: samples must not be left out for it."""

import numpy as np
import pytest

from vlv.config import ShardsConfig
from vlv.data.formats import DecodeSettings
from vlv.data.remote import RemoteError
from vlv.datatools.packing import Outcome, convert_at
from vlv.datatools.probe import Prober


class Failing:
    """A source whose samples all fail in one way."""

    pool_shards = 1
    shard_sizes = np.array([1])

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def name(self, index):
        return "a.jpg"

    def read(self, index):
        raise self.error


def pack(source):
    outcome = Outcome()
    assert convert_at(source, 0, ShardsConfig(source="a", destination="b"), outcome) is None
    return [record["reason"] for record in outcome.records]


def look(source):
    prober = Prober(source, DecodeSettings(), lambda image: {}, None, captions=False, pictures=False)
    return [kind.reason for kind in prober.look([0], lambda done: None).bad_kinds()]


@pytest.mark.parametrize("tool", [pack, look])
@pytest.mark.parametrize("error", [RemoteError("https://host/0.tar cannot be read"), MemoryError()])
def test_what_says_nothing_about_the_sample_is_raised(tool, error):
    with pytest.raises(type(error)) as raised:
        tool(Failing(error))
    assert raised.value is error


@pytest.mark.parametrize("tool", [pack, look])
def test_what_no_reader_foresaw_makes_one_sample_bad(tool):
    assert tool(Failing(RuntimeError("odd"))) in (["unexpected RuntimeError: odd"], ["unexpected RuntimeError"])
