"""The models. Importing them registers their classes with transformers' AutoConfig and AutoModel."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel

from vlv.encoders.florence2 import VLVEncoder, VLVEncoderConfig
from vlv.models.autoencoder import VLVAutoEncoder, VLVAutoEncoderConfig
from vlv.models.captioner import VLVCaptioner, VLVCaptionerConfig
from vlv.models.from_stage1 import preview_autoencoder
from vlv.models.image_processor import VLVImageProcessor

__all__ = [
    "VLVAutoEncoder",
    "VLVAutoEncoderConfig",
    "VLVCaptioner",
    "VLVCaptionerConfig",
    "VLVEncoder",
    "VLVEncoderConfig",
    "VLVImageProcessor",
    "preview_autoencoder",
]

for _config, _model in (
    (VLVAutoEncoderConfig, VLVAutoEncoder),
    (VLVEncoderConfig, VLVEncoder),
    (VLVCaptionerConfig, VLVCaptioner),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
