"""Where a checkpoint's bases are looked for."""

import json
import shutil

from tests.models import new_stage1
from vlv import VLVAutoEncoder
from vlv.checkpoints.identity import recorded_place


def test_places_beside_a_checkpoint_are_relative_to_it(tmp_path):
    checkpoint = tmp_path / "trained" / "stage1"
    assert recorded_place("../../stable-diffusion", checkpoint) == str(tmp_path / "stable-diffusion")
    assert recorded_place("bases/decoder", checkpoint) == str(checkpoint / "bases" / "decoder")
    assert recorded_place("/data/sd", checkpoint) == "/data/sd"
    assert recorded_place("stabilityai/sd-2-1", checkpoint) == "stabilityai/sd-2-1"


def test_a_folder_of_a_checkpoint_and_its_bases_can_be_moved(tiny_components, tmp_path):
    here = tmp_path / "here"
    shutil.copytree(tiny_components, here)
    model = new_stage1(here, num_queries=4)
    model.save_pretrained(here / "trained" / "stage1")
    path = here / "trained" / "stage1" / "config.json"
    config = json.loads(path.read_text())
    config["bases"]["decoder"]["source"] = "../../stable-diffusion"
    config["bases"]["florence2"]["source"] = "../../florence2"
    path.write_text(json.dumps(config))
    here.rename(tmp_path / "there")
    loaded = VLVAutoEncoder.from_pretrained(tmp_path / "there" / "trained" / "stage1")
    assert loaded.bases["decoder"]["source"] == str(tmp_path / "there" / "stable-diffusion")
