"""Queries that start from regions of the image: what they read, what training and files make of them."""

import pytest
import torch

from tests.models import new_captioner, new_stage1
from vlv import VLVAutoEncoder, VLVCaptioner, VLVEncoder
from vlv.checkpoints.identity import CheckpointError
from vlv.checkpoints.initial import load_initial
from vlv.encoders.regions import RegionReader
from vlv.limits import check_region_grid
from vlv.published.export import export_checkpoint
from vlv.whitening import StateMoments, whitening


@pytest.fixture(scope="module")
def components(tiny_components):
    return tiny_components


@pytest.fixture
def pixels():
    return torch.randint(0, 256, (3, 3, 128, 128), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def build(components, **changes):
    torch.manual_seed(0)
    return new_stage1(components, **{"region_grid": 2, "region_blocks": 2, **changes})


def stir(module):
    """Move every trained weight, the gate too."""
    with torch.no_grad():
        for value in module.parameters():
            if value.requires_grad:
                value.add_(0.1 * torch.randn_like(value))


def test_a_row_is_the_average_of_its_region_and_the_last_is_the_image():
    rows_of_image = torch.arange(16.0).reshape(1, 16, 1)  # 4 x 4 places, each its own number
    tokens = torch.cat([torch.full((1, 1, 1), 100.0), rows_of_image], dim=1)
    averages = RegionReader(1, grid=2, blocks=0).averages(tokens)
    assert averages.flatten().tolist() == [2.5, 4.5, 10.5, 12.5, 100.0]


@pytest.mark.parametrize(("side", "grid"), [(24, 3), (24, 8), (8, 3)])
def test_florence2s_own_sizes_fit(side, grid):
    reader = RegionReader(32, grid, blocks=1)
    states = reader(torch.randn(2, side * side + 1, 32), torch.randn(2, 77, 32))
    assert states.shape == (2, 77, 32)
    assert states[:, : grid * grid + 1].abs().amin(-1).gt(0).all()
    assert not states[:, grid * grid + 1 :].any()  # BART's alone, and the gate is closed


def test_a_closed_gate_leaves_the_regions_alone_and_an_open_one_adds_barts_states():
    torch.manual_seed(0)
    reader, tokens, states = RegionReader(8, 2, 1), torch.randn(2, 17, 8), torch.randn(2, 7, 8)
    alone = reader(tokens, states)
    assert torch.equal(alone, reader(tokens, torch.randn(2, 7, 8)))
    with torch.no_grad():
        reader.gate.fill_(0.5)
    assert torch.allclose(reader(tokens, states), alone + 0.5 * states)


def test_a_whitened_start_takes_each_rows_mean_away():
    torch.manual_seed(0)
    means = 10 * torch.randn(1, 5, 8)
    averages = means + torch.randn(4096, 5, 8) @ torch.diag(torch.linspace(1, 3, 8))
    moments = StateMoments(8, rows=5)
    for part in averages.split(1000):
        moments.add(part)
    mean, covariance = moments.summed(lambda value: value)
    centred = (averages - averages.mean(0)).flatten(0, 1).double()
    assert torch.allclose(mean, averages.double().mean(0))
    assert torch.allclose(covariance, centred.T @ centred / len(centred))
    reader = RegionReader(8, 2, 0)
    reader.start_whitened(mean, covariance)
    white = reader.whiten(averages - reader.mean)
    assert torch.allclose(white.mean(0), torch.zeros(5, 8), atol=1e-3)
    assert torch.cov(white.flatten(0, 1).T).diagonal().detach().numpy() == pytest.approx(1, abs=0.15)
    assert torch.allclose(whitening(covariance), whitening(covariance).T)


def test_off_is_as_published(components, pixels):
    """No weight and no key more, and the states of BART alone."""
    model = new_stage1(components)
    plain, with_regions = build(components, region_grid=None), build(components)
    more = {name for name, _ in with_regions.named_parameters()} - {name for name, _ in model.named_parameters()}
    assert model.describe().keys() == plain.describe().keys()
    assert not {"region_grid", "region_blocks"} & model.describe().keys()
    assert more
    assert all(name.startswith("encoder.regions.") for name in more)
    encoder = plain.encoder
    states = encoder.read_queries(encoder.encode(encoder.image_features(pixels)))
    assert torch.equal(encoder(pixels)["clip"], encoder.language_proj["clip"](states))


def test_without_bart_the_rows_are_the_regions_and_nothing_else_trains(components, pixels, tmp_path):
    model = build(components, trained="regions", num_queries=5)
    stir(model.encoder)
    encoder = model.encoder
    rows = encoder.regions.rows(encoder.image_features(pixels))
    assert torch.equal(encoder(pixels)["clip"], encoder.language_proj["clip"](rows))
    trained = {name for name, value in encoder.named_parameters() if value.requires_grad}
    assert trained
    assert all(name.startswith(("regions.", "language_proj.")) for name in trained - {"regions.gate"})
    assert "regions.gate" not in trained
    model.save_pretrained(tmp_path / "alone")
    captioner = new_captioner(tmp_path / "alone", components / "qwen", trained=["encoder"])
    assert {name for name, value in captioner.named_parameters() if value.requires_grad} == {
        f"encoder.{name}" for name in trained if name.startswith("regions.")
    }
    captioner.save_pretrained(tmp_path / "captioner")
    loaded = VLVCaptioner.from_pretrained(tmp_path / "captioner")
    assert torch.equal(loaded.embed(pixels).states, model.embed(pixels).states)


def test_bart_may_start_after_a_stage_1_of_regions_alone(components, pixels, tmp_path):
    model = build(components, trained="regions", num_queries=5)
    stir(model.encoder)
    model.save_pretrained(tmp_path / "alone")
    both = build(components, num_queries=5)
    load_initial(both, str(tmp_path / "alone"))
    assert torch.equal(both.embed(pixels).states, model.embed(pixels).states)  # the gate is still closed


def test_without_bart_each_query_needs_a_region(components):
    with pytest.raises(ValueError, match="num_queries=12 has queries that it alone would read: give num_queries=5"):
        build(components, trained="regions")
    with pytest.raises(ValueError, match="train=regions needs regions: give region_grid"):
        build(components, trained="regions", region_grid=None)


def test_weights_of_half_precision_compute_in_it(components, pixels):
    encoder = build(components).encoder.to(torch.bfloat16)
    assert encoder(pixels)["clip"].dtype == torch.bfloat16


@pytest.mark.parametrize("trained", ["language_model", "decoder_only", "all"])
def test_regions_train_with_bart_and_rest_with_it(components, trained):
    encoder = build(components, trained=trained).encoder
    assert all(value.requires_grad for value in encoder.regions.parameters())
    encoder.set_trained("none")
    assert not any(value.requires_grad for value in encoder.regions.parameters())


def test_gradients_reach_the_regions_and_the_gate(components, pixels):
    model = build(components)
    model.encoder(pixels)["clip"].square().sum().backward()
    assert all(value.grad.abs().sum() > 0 for value in model.encoder.regions.parameters())


def test_saved_and_loaded_in_every_form(components, pixels, tmp_path):
    """As stage 1, inside a captioner, and alone."""
    model = build(components)
    stir(model.encoder)
    wanted = model.embed(pixels).states
    model.save_pretrained(tmp_path / "stage1")
    assert torch.equal(VLVAutoEncoder.from_pretrained(tmp_path / "stage1").embed(pixels).states, wanted)
    captioner = new_captioner(tmp_path / "stage1", components / "qwen", trained=["encoder"])
    assert all(value.requires_grad for value in captioner.encoder.regions.parameters())
    captioner.save_pretrained(tmp_path / "captioner")
    assert torch.equal(VLVCaptioner.from_pretrained(tmp_path / "captioner").embed(pixels).states, wanted)
    model.encoder.save_pretrained(tmp_path / "encoder")
    alone = VLVEncoder.from_pretrained(tmp_path / "encoder")
    assert torch.equal(alone(pixels)["clip"], model.encoder(pixels)["clip"])


def test_a_training_starts_from_a_model_with_regions_alone(components, pixels, tmp_path):
    model = build(components)
    stir(model.encoder)
    model.save_pretrained(tmp_path / "regions")
    build(components, region_grid=None).save_pretrained(tmp_path / "plain")
    other = build(components)
    load_initial(other, str(tmp_path / "regions"))
    assert torch.equal(other.embed(pixels).states, model.embed(pixels).states)
    with pytest.raises(CheckpointError, match=r"plain has no encoder\.regions\.mean, which trains here"):
        load_initial(other, str(tmp_path / "plain"))


def test_the_published_layout_has_no_place_for_them(components, tmp_path):
    build(components).save_pretrained(tmp_path / "stage1")
    new_captioner(tmp_path / "stage1", components / "qwen").save_pretrained(tmp_path / "captioner")
    for name in ("stage1", "captioner"):
        with pytest.raises(
            CheckpointError, match=r"rows of regions \(region_grid=2\); the published layout has no place"
        ):
            export_checkpoint(tmp_path / name, tmp_path / "out.safetensors")


@pytest.mark.parametrize(
    ("grid", "queries", "message"),
    [
        (4, 10, "region_grid=4 makes 17 rows, more than num_queries=10: give 1 to 3, or null as published"),
        (9, 100, "region_grid=9 does not fit 8 x 8 image tokens: give 1 to 8, or null as published"),
        (0, 10, "region_grid=0 does not fit 8 x 8 image tokens: give 1 to 3, or null as published"),
        (1, 1, "region_grid=1 cannot be used with num_queries=1: give region_grid=null"),
    ],
)
def test_a_grid_that_does_not_fit_is_named_with_the_largest_that_does(grid, queries, message):
    with pytest.raises(ValueError, match=message):
        check_region_grid(grid, queries, encoder_resolution=64, patch_stride=(4, 2, 1, 1))


def test_the_largest_grids_pass():
    check_region_grid(8, 65, encoder_resolution=64, patch_stride=(4, 2, 1, 1))
    check_region_grid(8, 77, encoder_resolution=768, patch_stride=(4, 2, 2, 2))
