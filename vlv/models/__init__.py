"""The models. Importing them registers their classes with transformers' AutoConfig and AutoModel."""

from __future__ import annotations

from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor

from vlv.encoders.florence2 import VLVEncoder, VLVEncoderConfig
from vlv.models.autoencoder import VLVAutoEncoder, VLVAutoEncoderConfig
from vlv.models.captioner import VLVCaptioner, VLVForConditionalGeneration
from vlv.models.captioner_config import VLVCaptionerConfig
from vlv.models.from_stage1 import preview_autoencoder
from vlv.models.image_processor import VLVImageProcessor
from vlv.models.loading import load_captioner
from vlv.models.processor import VLVProcessor

__all__ = [
    "VLVAutoEncoder",
    "VLVAutoEncoderConfig",
    "VLVCaptioner",
    "VLVCaptionerConfig",
    "VLVEncoder",
    "VLVEncoderConfig",
    "VLVForConditionalGeneration",
    "VLVImageProcessor",
    "VLVProcessor",
    "load_captioner",
    "preview_autoencoder",
]

for _config, _model in (
    (VLVAutoEncoderConfig, VLVAutoEncoder),
    (VLVEncoderConfig, VLVEncoder),
    (VLVCaptionerConfig, VLVForConditionalGeneration),
):
    AutoConfig.register(_config.model_type, _config, exist_ok=True)
    AutoModel.register(_config, _model, exist_ok=True)
AutoModelForImageTextToText.register(VLVCaptionerConfig, VLVForConditionalGeneration, exist_ok=True)
AutoProcessor.register(VLVCaptionerConfig, VLVProcessor, exist_ok=True)
