"""What diffusers' own pipelines of SDXL and SD 3.5 say of prompts, for the tests of the decoders."""

from diffusers import StableDiffusionXLPipeline

from vlv.models.tiny_components import SENTENCES

SHORT = "a red house beside the sea"
FULL = " ".join(SENTENCES * 3)  # more than 77 tokens: fills every row, the last one with EOS
FAMILIES = ["xl", "3", "3_large", "3_without_t5"]


def table_rows(pipeline, prompts):
    """Each space's token embeddings of prompts, and the row of each prompt's first EOS."""
    embeddings = {}
    for space, suffix in (("clip_l", ""), ("clip_g", "_2")):
        tokenizer, text = getattr(pipeline, f"tokenizer{suffix}"), getattr(pipeline, f"text_encoder{suffix}")
        ids = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        embeddings[space] = text.get_input_embeddings()(ids).detach()
        end = (ids == text.config.eos_token_id).int().argmax(1)
    if getattr(pipeline, "text_encoder_3", None) is not None:
        tokenizer, text = pipeline.tokenizer_3, pipeline.text_encoder_3
        ids = tokenizer(prompts, padding="max_length", max_length=77, truncation=True, return_tensors="pt").input_ids
        embeddings["t5"] = text.get_input_embeddings()(ids).detach()
    return embeddings, end


def encode(pipeline, prompts):
    """(states, empty states, pooled, empty pooled), by the pipeline."""
    if isinstance(pipeline, StableDiffusionXLPipeline):
        return pipeline.encode_prompt(prompts, device="cpu", do_classifier_free_guidance=True)
    return pipeline.encode_prompt(prompts, None, None, device="cpu", max_sequence_length=77)
