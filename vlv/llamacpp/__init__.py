"""Captions by llama.cpp: a captioner's language model as a stock GGUF file, and what runs it.

The extra `gguf` brings the libraries. They are imported where they are used: a folder's checks need none of them.
"""

from vlv.llamacpp.captioner import LlamaCppCaptioner
from vlv.llamacpp.export import export_gguf

__all__ = ["LlamaCppCaptioner", "export_gguf"]
