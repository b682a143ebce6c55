"""The settings of captions from an endpoint."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from vlv.config.groups import FormatConfig, data_option, model_option, run_option
from vlv.redaction import redact_values
from vlv.settings import ConfigError, option, require
from vlv.settings.declare import settings_of

# Settings that change no caption: where the endpoint is, how fast it is asked, what it may cost, what is written.
FREE = frozenset(
    {
        "api_key_env",
        "ask_again",
        "base_url",
        "concurrency",
        "destination",
        "max_failed_in_row",
        "max_requests",
        "max_tokens_spent",
        "num_workers",
        "parquet",
        "price_completion",
        "price_prompt",
        "print_config",
        "prompt_file",  # its text counts
        "retries",
        "timeout",
    }
)


@dataclass(frozen=True)
class CaptionApiConfig(FormatConfig):
    """Which images are captioned, by which model, at which cost."""

    source: str = option("", "the images: a folder, a file, a glob or a list", path="local")
    destination: str = option("", "folder of captions.json, report.json and what an interrupted call had", path="local")
    base_url: str = model_option("", "the endpoint's address up to chat/completions, as http://localhost:8000/v1")
    model: str = model_option("", "the model's name at the endpoint")
    prompt_file: str = model_option(
        "configs/caption_prompt.txt", "text file with what the model is asked for", path="shipped"
    )
    api_key_env: str | None = model_option(
        None, "name of the environment variable that holds the key; null sends none. The key itself is no setting"
    )
    temperature: float | None = model_option(0.2, "of sampling; null leaves it to the endpoint")
    max_tokens: int = model_option(512, "longest answer in tokens; one that is cut is left out")
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] = model_option(
        "max_tokens", "what the endpoint calls that limit"
    )
    max_side: int = data_option(1024, "larger images are made this large before they are sent, in pixels")
    jpeg_quality: int = data_option(90, "of the images that are sent, 1 to 100")
    concurrency: int = run_option(16, "requests at once")
    timeout: float = run_option(120.0, "seconds until a request without a whole answer is given up")
    retries: int = run_option(
        6, "further tries after 408, 409, 429, 5xx, a time-out, a broken connection or a broken answer"
    )
    max_failed_in_row: int = run_option(32, "the call ends when so many images in a row got no answer")
    max_requests: int | None = run_option(None, "budget of requests of all calls with this destination, tries counted")
    max_tokens_spent: int | None = run_option(
        None, "budget of tokens, prompt and answer, of all calls with this destination"
    )
    price_prompt: float | None = run_option(None, "price of a million tokens of prompts, for the report")
    price_completion: float | None = run_option(None, "price of a million tokens of answers, for the report")
    ask_again: bool = run_option(False, "ask again for images whose answer was refused, rejected, empty or cut")
    parquet: str | None = run_option(
        None, "once all images are asked, also write images and captions into this .parquet file", path="local"
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not (self.source and self.destination):
            raise ConfigError(
                "images and a folder are needed: vlv data caption SOURCE DESTINATION base_url=URL model=NAME"
            )
        require(
            self.base_url.startswith(("http://", "https://")) and not self.base_url.rstrip("/").endswith("completions"),
            "base_url",
            self.base_url,
            "give the address up to chat/completions, as http://localhost:8000/v1",
        )
        require(bool(self.model), "model", self.model, "give the name that the endpoint knows the model by")
        whole = ("concurrency", "max_tokens", "max_side", "max_failed_in_row", "max_requests", "max_tokens_spent")
        for key in whole:
            value = getattr(self, key)
            require(value is None or value >= 1, key, value, "give at least 1")
        for key in ("temperature", "retries", "price_prompt", "price_completion"):
            value = getattr(self, key)
            require(value is None or value >= 0, key, value, "give 0 or more")
        require(self.timeout > 0, "timeout", self.timeout, "give a positive number of seconds")
        require(1 <= self.jpeg_quality <= 100, "jpeg_quality", self.jpeg_quality, "give 1 to 100")
        ending = self.parquet is None or self.parquet.lower().endswith(".parquet")
        require(ending, "parquet", self.parquet, "give a file that ends in .parquet, by which the loader knows it")

    def api_key(self) -> str | None:
        """The key, from the environment.

        Raises:
            ConfigError: the variable that is named is not set.
        """
        if self.api_key_env is None:
            return None
        key = os.environ.get(self.api_key_env, "").strip()
        # The name as it was given may be a key that was put in the wrong place, which no message may repeat.
        shown = self.api_key_env if self.api_key_env.isupper() else "(what was given)"
        require(bool(key), "api_key_env", shown, "no such variable is set: give the name of one that holds the key")
        return key

    def prompt(self) -> str:
        """What the model is asked for.

        Raises:
            ConfigError: the file cannot be read, or is empty.
        """
        try:
            text = Path(self.prompt_file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError):
            text = ""
        require(bool(text), "prompt_file", self.prompt_file, "give a UTF-8 text file with the prompt")
        return text

    def identity(self) -> dict[str, object]:
        """What decides the captions, as it may be written down."""
        kept = {key: getattr(self, key) for key in settings_of(CaptionApiConfig) if key not in FREE}
        if os.path.exists(self.source):
            kept["source"] = os.path.abspath(self.source)
        return {**redact_values(kept), "prompt": self.prompt()}
