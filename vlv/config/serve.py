"""The settings of `vlv serve`."""

from __future__ import annotations

from dataclasses import dataclass

from vlv.config.groups import QUANTIZE_DOC, AdapterBasesConfig, Precision, Quantize
from vlv.settings import ConfigError, option, require

_COUNTS = ("batch_size", "queue_limit", "num_beams", "max_image_mb", "port")
_LAST_PORT = 65535


@dataclass(frozen=True)
class ServeConfig(AdapterBasesConfig):
    """What is served, where, and what a request may ask for."""

    ckpt_dir: str = option("", "the captioner's folder", path="local")
    host: str = option("127.0.0.1", "address that is listened on; 0.0.0.0 is every one of this machine")
    port: int = option(8000, "TCP port")
    model_name: str | None = option(None, "the model's name in the API; null is the folder's")
    precision: Precision = option(
        "auto",
        "number format of the computation; auto is bf16 on a GPU, and on a CPU where it is measured to pay",
    )
    quantize: Quantize | None = option(None, QUANTIZE_DOC)
    batch_size: int = option(8, "images that are captioned at once, at most")
    batch_wait_ms: float = option(5.0, "milliseconds that a request waits for others to be captioned with it")
    queue_limit: int = option(256, "requests that wait or are captioned; more are answered 429")
    request_timeout: float = option(120.0, "seconds until a request is given up, the download of its image included")
    num_beams: int = option(1, "beams where a request gives no temperature; 1 is streamed token by token")
    max_new_tokens: int | None = option(
        None, "longest caption, in tokens, a larger max_tokens is lowered to it; null is generation_config.json's"
    )
    max_image_mb: int = option(20, "size of an image file, at most, in MB")
    max_image_mib: int = option(512, "size of a decoded image, at most, in MiB")
    max_waiting_mb: int = option(
        1000, "MB of requests and downloads whose images are not decoded yet, at most; more are answered 429"
    )
    download_timeout: float = option(10.0, "seconds for the download of an image by http")
    allow_private: bool = option(False, "also download images from private addresses: this machine, its network")
    shutdown_timeout: float = option(30.0, "seconds that requests have to finish once the server is stopped")
    print_config: bool = option(False, "print the resolved config, each value with who gave it, and stop")

    def __post_init__(self) -> None:
        if not self.ckpt_dir:
            raise ConfigError("a captioner's folder is needed: vlv serve FOLDER")
        for key in _COUNTS:
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        require(self.port <= _LAST_PORT, "port", self.port, f"give at most {_LAST_PORT}")
        if self.max_new_tokens is not None:
            require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "give at least 1, or null")
        least = 2 * self.max_image_mb + 2  # the largest request, which nobody could send else
        require(self.max_waiting_mb >= least, "max_waiting_mb", self.max_waiting_mb, f"give at least {least}")
        for key in ("request_timeout", "download_timeout", "shutdown_timeout"):
            require(getattr(self, key) > 0, key, getattr(self, key), "give a positive number of seconds")
        require(self.batch_wait_ms >= 0, "batch_wait_ms", self.batch_wait_ms, "give 0 or more")
