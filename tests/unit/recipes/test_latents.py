import pytest

from vlv.config import LatentsConfig
from vlv.data.latent_cache import LatentFacts
from vlv.recipes.latents import PLAN, _agree_on_plan

FACTS = LatentFacts({"config_sha256": "a"}, 64, (2, 4, 8, 8), "fp16")


def test_the_plan_of_a_call_holds_no_credentials(tmp_path):
    path = tmp_path / "latents" / PLAN
    config = LatentsConfig(dataset_path="https://canary:bird@host/{0..1}.tar?token=canary", output_dir=str(path.parent))
    _agree_on_plan(path, config, FACTS, 8)
    assert "host/" in path.read_text()
    assert not any(secret in path.read_text() for secret in ("canary", "bird"))
    _agree_on_plan(path, config, FACTS, 8)  # the same call goes on
    with pytest.raises(ValueError, match=r"holds latents of another call \(samples 8 -> 9\)"):
        _agree_on_plan(path, config, FACTS, 9)
