"""A captioner behind an OpenAI-compatible HTTP server."""
