"""How many actors a captioning on Ray starts, and what each holds; Ray itself is in tests/integration."""

import pytest

from vlv.config import CaptionConfig
from vlv.recipes.caption_ray import Share, actor_shares, on_any_node


def test_workers_get_paths_that_do_not_depend_on_their_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "captioner").mkdir()
    config = CaptionConfig(
        image_path="photos/*.jpg", ckpt_dir="captioner", output_path="out.json", florence2_model_path="owner/florence"
    )
    found = on_any_node(config)
    assert found.image_path == str(tmp_path / "photos/*.jpg")
    assert (found.ckpt_dir, found.output_path) == (str(tmp_path / "captioner"), str(tmp_path / "out.json"))
    assert found.florence2_model_path == "owner/florence", "of a hub"
    for source in ("s3://bucket/{000..999}.tar", "hub:owner/name", "pipe:cat x.tar"):
        assert on_any_node(CaptionConfig(image_path=source)).image_path == source


@pytest.mark.parametrize(
    ("gpus", "encoders", "captioners", "of_encoder", "of_captioner"),
    [(0, 1, 1, 0, 0), (1, 1, 1, 0.4, 0.6), (2, 1, 2, 0.4, 0.6), (4, 1, 3, 1, 1), (8, 2, 6, 1, 1), (64, 16, 48, 1, 1)],
)
def test_every_gpu_has_work(gpus, encoders, captioners, of_encoder, of_captioner):
    shares = actor_shares(None, None, 16 * max(1, gpus), gpus)
    assert shares.encoder == Share(encoders, 0.25, of_encoder)
    assert shares.captioner == Share(captioners, 0.5, of_captioner)


def test_encoders_that_land_on_one_gpu_leave_room_for_a_captioner():
    shares = actor_shares(2, 3, 16, 2)
    on_one = shares.encoder.count * shares.encoder.gpus
    assert on_one + shares.captioner.gpus <= 1 + 1e-9
    assert 2 * shares.captioner.gpus > 1  # two captioners are never on one


@pytest.mark.parametrize("cpus", [1, 2, 64])
@pytest.mark.parametrize("captioners", [1, 2, 40])
def test_cores_are_left_to_read_with(cpus, captioners):
    shares = actor_shares(captioners, 2, cpus, 0)
    held = sum(share.count * share.cpus for share in (shares.encoder, shares.captioner))
    assert held <= 0.7 * cpus + 1e-9, "a decoder's quarter of a core has a place on one core, too"


def test_more_captioners_than_gpus_are_refused():
    with pytest.raises(ValueError, match="ray_captioners=3: the cluster has 2 GPUs"):
        actor_shares(3, None, 16, 2)
