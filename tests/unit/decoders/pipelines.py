"""Shared by the tests of the decoders: what diffusers' pipelines of SDXL and SD 3.5 say of prompts; overfitting."""

import torch
from diffusers import StableDiffusionXLPipeline

from vlv.sampling import sample_generators
from vlv.testing.components import SENTENCES

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


def overfit(decoder):
    """Losses on fixed noise as embeddings alone train, on three pictures: gradients pass through all that is frozen."""
    torch.manual_seed(0)
    latents = torch.randn(3, *decoder.latent_shape)
    sampled = decoder.sample_noise_and_timesteps(sample_generators(1, range(3)))
    embeddings = {s.name: (0.02 * torch.randn(3, 8, s.width)).requires_grad_() for s in decoder.conditioner.spaces}
    optimizer = torch.optim.AdamW(embeddings.values(), lr=0.02)
    losses = []
    for _ in range(15):
        loss = decoder.denoising_loss(latents, decoder.conditioner(embeddings), sampled).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses
