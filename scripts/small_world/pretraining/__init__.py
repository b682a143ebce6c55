"""Pretraining of the small world's own family: Stable Diffusion, Florence-2 and Qwen2, tiny but real."""
