"""Where transformers finds this captioner's classes: in the package vlv, which has to be installed."""

from vlv.models import VLVCaptionerConfig

__all__ = ["VLVCaptionerConfig"]
