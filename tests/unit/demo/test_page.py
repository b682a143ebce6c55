"""The page's parts, without a browser."""

from types import SimpleNamespace

import pytest

from vlv.demo.examples import shape_examples
from vlv.demo.model import Sampling

pytest.importorskip("gradio")


def parts(tmp_path, **model):
    from vlv.demo.page import PageSettings, build_page

    asked = SimpleNamespace(rows=77, default_join="first rows", **model)
    page = build_page(asked, PageSettings("final", shape_examples(tmp_path, 3), Sampling(guidance_scale=3.0)))
    return page.get_config_file()


def labels(config):
    return {part["props"].get("label"): part["props"] for part in config["components"]}


def test_controls_start_from_the_settings_and_the_models_rows(tmp_path):
    found = labels(parts(tmp_path, draws=True, reads_texts=True, no_pictures=""))
    assert (found["Rows kept"]["maximum"], found["Rows kept"]["value"]) == (77, 77)
    assert found["Guidance"]["value"] == 3.0
    assert found["How rows are joined"]["value"] == "first rows"
    assert found["Drawn from the caption"]["visible"]


def test_without_a_decoder_there_are_captions_and_one_line(tmp_path):
    config = parts(
        tmp_path, draws=False, reads_texts=False, no_pictures="it is <not> here: set stable_diffusion_model_path"
    )
    found = labels(config)
    assert "Two images" not in found
    assert "Guidance" not in found
    texts = [str(part["props"].get("value")) for part in config["components"]]
    assert any("No pictures: it is &lt;not&gt; here: set stable_diffusion_model_path." in text for text in texts)


def test_a_decoder_without_its_text_encoder_draws_from_embeddings_alone(tmp_path):
    found = labels(parts(tmp_path, draws=True, reads_texts=False, no_pictures=""))
    assert found["Drawn from the embeddings"]["visible"]
    assert not found["Drawn from the caption"]["visible"]
