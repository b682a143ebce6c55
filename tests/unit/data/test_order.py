import numpy as np
import pytest

from vlv.data.folder import FolderSource
from vlv.data.order import (
    BatchPlan,
    SampleOrder,
    default_window,
    largest_micro_batch,
    training_positions,
    validation_positions,
)
from vlv.data.parquet import ParquetSource
from vlv.data.tar_shards import TarSource


def epoch_of(order, epoch):
    return [order[epoch * len(order) + n] for n in range(len(order))]


def test_each_epoch_is_another_permutation():
    order = SampleOrder([10, 3, 25, 7], seed=1, window=12)
    first, second = epoch_of(order, 0), epoch_of(order, 1)
    assert sorted(first) == sorted(second) == list(range(45))
    assert first != second
    assert first != epoch_of(SampleOrder([10, 3, 25, 7], seed=2, window=12), 0)


def test_order_depends_on_the_position_alone():
    sizes = [10, 3, 0, 25, 7]
    order = SampleOrder(sizes, seed=5, window=20)
    expected = [order[n] for n in range(135)]
    positions = np.random.default_rng(0).permutation(135)
    other = SampleOrder(np.array(sizes), seed=5, window=20)
    assert {int(n): other[int(n)] for n in positions} == dict(enumerate(expected))


def test_order_is_the_same_forever():
    """Runs resume by position: a change of these numbers breaks every run that is under way."""
    assert epoch_of(SampleOrder([4, 4, 4], seed=42, window=6), 0) == [1, 0, 6, 3, 2, 4, 5, 7, 11, 10, 9, 8]


def test_pools_are_whole_shards():
    size, window = 10, 30
    order = SampleOrder([size] * 20, seed=0, window=window)
    samples = epoch_of(order, 3)
    pools = [samples[start : start + window] for start in range(0, 200, window)]
    shards = [{sample // size for sample in pool} for pool in pools]
    assert [len(pool) for pool in shards] == [3, 3, 3, 3, 3, 3, 2]
    assert sum(map(len, shards)) == len(set.union(*shards)) == 20
    assert all(pool != sorted(pool) for pool in pools)


def test_identity_without_shuffle():
    order = SampleOrder([2, 3], seed=0, window=1, shuffle=False)
    assert [order[n] for n in range(7)] == [0, 1, 2, 3, 4, 0, 1]


@pytest.mark.parametrize(
    ("sizes", "window", "match"), [([], 1, "no samples"), ([0], 1, "no samples"), ([3], 0, "window=0 cannot be used")]
)
def test_order_refuses(sizes, window, match):
    with pytest.raises(ValueError, match=match):
        SampleOrder(sizes, seed=0, window=window)


def test_large_orders_keep_little():
    order = SampleOrder(np.full(400_000, 100), seed=0, window=8192)
    seen = [order[n] for n in range(0, 40_000_000, 800_000)]
    assert len(set(seen)) == len(seen)
    held = sum(pool.nbytes for pool in order._pools.values())
    assert held < 1_000_000
    with pytest.raises(TypeError):
        iter(order)


@pytest.mark.parametrize("num_processes", [1, 2, 4])
@pytest.mark.parametrize("micro", [1, 2])
def test_processes_share_each_step(num_processes, micro):
    plans = [BatchPlan(8, num_processes, index, micro) for index in range(num_processes)]
    assert plans[0].accumulation == 8 // (num_processes * micro)
    for start in (0, 8, 24):
        batches = [batch for plan in plans for batch in plan.positions(start)]
        assert all(len(batch) == micro for batch in batches)
        assert sorted(position for batch in batches for position in batch) == list(range(start, start + 8))


def test_positions_of_a_process():
    assert BatchPlan(8, 2, 1, 2).positions(16) == [[18, 19], [22, 23]]


def test_resuming_continues_the_sequence():
    plan = BatchPlan(8, 2, 1, 2)
    whole = list(training_positions(plan, 0, 6))
    assert whole == [*training_positions(plan, 0, 2), *training_positions(plan, 16, 4)]


def test_plan_names_the_nearest_batches():
    with pytest.raises(ValueError, match=r"global_batch_size=10 .* use 8 or 16"):
        BatchPlan(10, 4, 0, 2)
    with pytest.raises(ValueError, match=r"use 4$"):
        BatchPlan(3, 4, 0, 1)


@pytest.mark.parametrize(
    ("batch", "processes", "limit", "expected"), [(64, 8, 64, 8), (64, 1, 24, 16), (70, 2, 8, 7), (14, 2, 6, 1)]
)
def test_largest_micro_batch(batch, processes, limit, expected):
    assert largest_micro_batch(batch, processes, limit) == expected


def test_micro_batch_names_the_nearest_batches():
    with pytest.raises(ValueError, match="global_batch_size=64 cannot be shared by 6 processes: use 60 or 66"):
        largest_micro_batch(64, 6, 8)


@pytest.mark.parametrize(("samples", "processes", "size"), [(10, 1, 4), (10, 3, 2), (5, 4, 2), (8, 2, 4), (1, 4, 8)])
def test_validation_takes_each_sample_once(samples, processes, size):
    shares = [list(validation_positions(samples, processes, index, size)) for index in range(processes)]
    assert len({len(share) for share in shares}) == 1
    assert all(len(batch) == size for share in shares for batch in share)
    places = sorted(position for share in shares for batch in share for position in batch)
    assert places == list(range(len(places)))
    assert samples <= len(places) < samples + processes * size


class Sized:
    def __init__(self, sizes, kind):
        self.shard_sizes, self.pool_shards = np.array(sizes), kind.pool_shards

    def __len__(self):
        return int(self.shard_sizes.sum())


def shards_in_a_batch(source, batch=512):
    """Mean over batches of the middle of an epoch, away from pools that its end cuts short."""
    order = SampleOrder(source.shard_sizes, 0, default_window(source))
    shard_of = np.repeat(np.arange(len(source.shard_sizes)), source.shard_sizes)
    starts = range(0, len(order) // 2, len(order) // 40)
    return np.mean([len({int(shard_of[order[start + n]]) for n in range(batch)}) for start in starts])


@pytest.mark.parametrize(
    ("kind", "shards", "size", "least"),
    [
        (TarSource, 200, 10_000, 60),
        (TarSource, 1000, 1000, 55),
        (ParquetSource, 2000, 100, 75),
        (ParquetSource, 200, 1000, 8),
    ],
)
def test_a_batch_is_of_many_shards(kind, shards, size, least):
    """img2dataset's shards have 10,000 samples: a window of 8,192 gave every batch from one of them."""
    assert shards_in_a_batch(Sized([size] * shards, kind)) >= least


def test_default_windows():
    assert default_window(Sized([10] * 5, TarSource)) == 8192
    assert default_window(Sized([1000] * 100 + [0] * 100, TarSource)) == 64_000
    assert default_window(Sized([10**6] * 9, TarSource)) == 10**6
    assert default_window(Sized([10**6] * 9, FolderSource)) == default_window(Sized([10**4], ParquetSource)) == 8192
