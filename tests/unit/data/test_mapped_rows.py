"""A row of an Arrow file is judged by its own values, whatever its columns are made of."""

import pyarrow as pa
import pytest

from vlv.data.mapped_rows import checked
from vlv.data.sample import BadSample

TEXTS = pa.array([b"good", b"\xff\xfe", b"fine"], pa.binary()).cast(pa.string(), safe=False)
EACH = pa.array([0, 1, 2], pa.int8())
COLUMNS = {
    "text": (TEXTS, "good", "fine"),
    "list": (pa.ListArray.from_arrays([0, 1, 2, 3], TEXTS), ["good"], ["fine"]),
    "struct": (
        pa.StructArray.from_arrays([pa.array([b"a", b"b", None]), TEXTS], ["bytes", "path"]),
        {"bytes": b"a", "path": "good"},
        {"bytes": None, "path": "fine"},
    ),
    "dictionary": (pa.DictionaryArray.from_arrays(pa.array([0, 1, None], pa.int8()), TEXTS), "good", None),
    "list of a dictionary": (
        pa.ListArray.from_arrays([0, 1, 2, 3], pa.DictionaryArray.from_arrays(EACH, TEXTS)),
        ["good"],
        ["fine"],
    ),
}


@pytest.mark.parametrize("kind", COLUMNS)
def test_one_bad_value_is_the_fault_of_its_row_alone(kind):
    values, first, last = COLUMNS[kind]
    table = pa.table({"column": values})
    found = [checked(table.slice(row, 1))["column"][0].as_py() for row in (0, 2)]
    assert found == [first, last]
    with pytest.raises(BadSample, match=r"the row is damaged: .*Invalid UTF8"):
        checked(table.slice(1, 1))


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        (pa.array([["a", "b"], None, []]), [["a", "b"], None, []]),
        (pa.array([["a"], ["b"]], pa.list_view(pa.string())), [["a"], ["b"]]),
        (pa.array([[1, 2], [3, 4]], pa.list_(pa.uint8(), 2)), [[1, 2], [3, 4]]),
        (pa.array([{"bytes": b"x"}, None]), [{"bytes": b"x"}, None]),
    ],
)
def test_rows_are_what_they_were(values, rows):
    table = pa.table({"column": values})
    assert [checked(table.slice(row, 1))["column"][0].as_py() for row in range(len(rows))] == rows


def test_an_index_that_leads_nowhere_is_named():
    wrong = pa.DictionaryArray.from_arrays(pa.array([0, 9], pa.int8()), pa.array(["a"]), safe=False)
    table = pa.table({"column": wrong})
    assert checked(table.slice(0, 1))["column"][0].as_py() == "a"
    with pytest.raises(BadSample, match="an index of 9 into 1 values"):
        checked(table.slice(1, 1))
