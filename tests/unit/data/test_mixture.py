"""Mixtures of sources: shares, once per own epoch, and files that list them."""

from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from vlv.data.dataset import OrderedDataset, build_loader
from vlv.data.formats import SourceSettings
from vlv.data.mixture import MixedOrder, MixedSource, build_order, read_mixture
from vlv.data.order import BatchPlan, SampleOrder, training_positions
from vlv.data.preparation import SamplePreparation
from vlv.data.sources import check_source, open_source

from .pictures import encode, picture, write_tar

SIZES, WEIGHTS = [30, 7, 100], [0.3, 0.05, 0.65]


def mixed(sizes=SIZES, weights=WEIGHTS, seed=3, shuffle=True):
    return MixedOrder([SampleOrder([size], seed, 10, shuffle) for size in sizes], weights)


def split(order, count, sizes=SIZES):
    """The indices of each source that the first positions give, in their order, counted within the source."""
    starts = np.cumsum([0, *sizes])
    found = [[] for _ in sizes]
    for n in range(count):
        source = int(np.searchsorted(starts, order[n], side="right")) - 1
        found[source].append(order[n] - int(starts[source]))
    return found


def test_each_source_is_read_once_per_own_epoch():
    """And in its own order, which the other sources do not touch."""
    for size, seen in zip(SIZES, split(mixed(), 5_000), strict=True):
        alone = SampleOrder([size], 3, 10)
        assert seen == [alone[n] for n in range(len(seen))]
        epochs = [seen[start : start + size] for start in range(0, len(seen) - size + 1, size)]
        assert epochs
        assert all(sorted(epoch) == list(range(size)) for epoch in epochs)


@pytest.mark.parametrize("weights", [WEIGHTS, [1, 1, 1], [1e-3, 1e-2, 1], [2 / 3, 1 / 7, 1e-4], [5e6, 40e6, 12345]])
def test_shares_are_the_weights_everywhere(weights):
    sizes = [10, 20, 30]
    order = mixed(sizes, weights)
    shares = np.array(weights) / sum(weights)
    starts = np.cumsum(sizes)
    sources = np.array([np.searchsorted(starts, order[n], side="right") for n in range(20_000)])
    for start, count in ((0, 20_000), (7_000, 512), (19_000, 1_000)):
        expected = shares * count
        got = np.bincount(sources[start : start + count], minlength=3)
        assert (np.abs(got - expected) <= 3).all(), (start, got, expected)


def test_a_position_decides_alone():
    order, other = mixed(), mixed()
    expected = [order[n] for n in range(4_000)]
    for n in np.random.default_rng(0).permutation(4_000)[:500]:
        assert other[int(n)] == expected[n]


def test_order_is_the_same_forever():
    """Runs resume by position: a change of these numbers breaks every run that is under way."""
    order = mixed([4, 4], [2, 1], seed=42)
    assert [order[n] for n in range(12)] == [2, 6, 0, 1, 4, 3, 3, 5, 1, 0, 7, 2]
    assert [order[n] for n in range(10**12, 10**12 + 4)] == [1, 7, 1, 2]


def test_unshuffled():
    assert [mixed([4, 4], [2, 1], shuffle=False)[n] for n in range(6)] == [0, 4, 1, 2, 5, 3]


def test_a_weight_that_no_block_holds():
    with pytest.raises(ValueError, match=r"a weight of 1e-07 is too small beside the others: give at least 2e-06"):
        mixed([4, 4], [1, 1e-7])


@pytest.fixture
def sources(folder, tmp_path):
    shards = tmp_path / "shards"
    write_tar(shards / "0.tar", [(f"{n}.png", encode(picture(10 + n))) for n in range(3)])
    listing = tmp_path / "mixture.yaml"
    listing.write_text(
        f"sources:\n  - {{path: {folder}, weight: 3, name: photos}}\n  - {{path: '{shards}/*.tar', weight: 1}}\n"
    )
    return listing


def test_a_file_of_sources(sources, folder):
    source = open_source(str(sources))
    assert isinstance(source, MixedSource)
    assert source.names == ("photos", "*.tar")
    assert len(source) == 8
    names = [source.name(index) for index in range(8)]
    assert names[:2] == ["photos:a.jpg", "photos:b.png"]
    assert names[5:] == [f"*.tar:0.tar/{n}.png" for n in range(3)]
    assert [source.source_of(index) for index in range(8)] == [0] * 5 + [1] * 3
    assert source.read(0).image == (folder / "a.jpg").read_bytes()
    assert source.read(7).image == encode(picture(12))
    check_source(str(sources))


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("processes", [1, 2])
def test_batches_say_which_source(sources, processor, num_workers, processes):
    """And hold the same samples at the same positions for any number of workers and processes."""
    source = open_source(str(sources))
    order = build_order(source, 1, None)
    seen = {}
    for process in range(processes):
        plan = BatchPlan(8, processes, process, 4)
        dataset = OrderedDataset(source, order, SamplePreparation(processor))
        for batch in build_loader(dataset, training_positions(plan, 16, 3), num_workers, False):
            sources_of = batch["sources"].tolist()
            for position, name, number in zip(batch["positions"], batch["names"], sources_of, strict=True):
                assert name.startswith(f"{source.names[number]}:")
                seen[position] = name
    assert seen == {n: source.name(order[n]) for n in range(16, 40)}
    counts = Counter(name.partition(":")[0] for name in seen.values())
    assert counts == {"photos": 18, "*.tar": 6}


def test_without_weights_samples_count_alike(sources):
    text = sources.read_text().replace(", weight: 3", "").replace(", weight: 1", "")
    sources.write_text(text)
    assert open_source(str(sources)).weights == (5.0, 3.0)


def test_an_entry_has_settings_of_its_own(tmp_path):
    listing = tmp_path / "m.yml"
    listing.write_text("sources: [{path: a, caption_column: text, raw_image_size: [8, 8], data_format: parquet}]")
    (entry,) = read_mixture(str(listing))
    settings = entry.apply(SourceSettings(image_column="jpg"))
    assert settings.raw_image_shape == (3, 8, 8)
    assert (settings.caption_column, settings.image_column, settings.data_format) == ("text", "jpg", "parquet")


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("sources: [{path: a, wieght: 1}]", "source 1: unknown wieght; an entry can have path, weight, name"),
        ("sources: [{path: a, weight: 0}]", "source 1: weight=0 cannot be used: give a positive number"),
        ("sources: [{path: a, weight: .nan}]", "weight=nan cannot be used"),
        ("sources: [{weight: 1}]", "source 1: path=None is no path"),
        ("sources: [{path: a, weight: 1}, {path: b}]", "gives weights to some sources alone"),
        ("sources: [{path: x/a}, {path: y/a}]", "has 2 sources called 'a': give each a `name`"),
        ("sources: [{path: x/a, name: a/b}]", "source 1: name='a/b' cannot be used"),
        ("sources: [{path: other.yaml}]", "is a mixture itself"),
        ("sources: [{path: a, data_format: zip}]", "data_format='zip' is unknown: give auto, webdataset"),
        ("sources: [{path: a, raw_image_size: [8]}]", r"raw_image_size=\[8\] cannot be used"),
        ("sources: [{path: a, image_column: 3}]", "image_column=3 is no text"),
        ("sources: []", "lists no sources"),
        ("[a, b]", "lists no sources"),
        ("sources: [", "cannot be read as a list of sources"),
        ("sources: [{path: /nowhere/at/all}]", "source 'all': /nowhere/at/all does not exist"),
        ("sources: [{path: 'stream:https://a/b.tar'}]", "can only be streamed"),
    ],
)
def test_lists_that_cannot_be_used(tmp_path, text, match):
    listing = tmp_path / "m.yaml"
    listing.write_text(text)
    for use in (open_source, check_source):
        with pytest.raises(ValueError, match=match) as error:
            use(str(listing))
        assert "m.yaml" in str(error.value)
        assert "\n" not in str(error.value)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(ValueError, match="cannot be read as a list of sources: No such file"):
        open_source(str(tmp_path / "m.yaml"))


def test_objectives_report_each_source():
    """Against sums by hand; the terms have weight 0, and count nothing in validation."""
    from vlv.models.objectives import SourceTerms

    terms = SourceTerms()
    terms.loss_weights = {"caption": 1.0, "diffusion": 3.0}
    terms.report_sources(["a", "b"])
    reported = {"a/caption": 0.0, "a/diffusion": 0.0, "b/caption": 0.0, "b/diffusion": 0.0}
    assert terms.loss_weights == {"caption": 1.0, "diffusion": 3.0, **reported}
    batch = {"sources": torch.tensor([1, 0, 1])}
    values = torch.tensor([2.0, 5.0, float("nan")], requires_grad=True)
    terms.training = True
    found = terms._of_sources("caption", values, batch)
    assert found["a/caption"].item() == 5.0
    assert found["b/caption"].isnan()
    assert not found["a/caption"].requires_grad
    terms.training = False
    assert [value.item() for value in terms._of_sources("caption", values, batch).values()] == [0.0, 0.0]
    assert SourceTerms()._of_sources("caption", values, SimpleNamespace()) == {}
