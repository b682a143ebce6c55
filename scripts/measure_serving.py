"""How fast `vlv serve` answers, one request at a time and many together, as a Markdown table.

python -m scripts.measure_serving
python -m scripts.measure_serving ckpt_dir=outputs/Stage2_Training/final requests=200 json=serving.json

Each row is a server of its own, asked by some clients at once for greedy captions of the small world's scenes.
"""

from __future__ import annotations

import base64
import io
import json
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median, quantiles

from vlv.cli.entry import Call, parse
from vlv.settings import option, require
from vlv.shapes.render import render
from vlv.shapes.scene import make_scene

_ROWS = ((1, 1), (1, 32), (8, 32), (32, 32))  # images at once, clients
_SCENES = 50


@dataclass(frozen=True)
class ServingConfig:
    """What is asked, and how often."""

    ckpt_dir: str = option("assets/tiny/trained/captioner", "the captioner's folder", path="local")
    requests: int = option(300, "requests of each row")
    json: str | None = option(None, "file for every measurement", path="local")

    def __post_init__(self) -> None:
        require(self.requests >= 10, "requests", self.requests, "give at least 10")


def main(arguments: list[str] | None = None) -> None:
    """Measure each row and print the table."""
    given = sys.argv[1:] if arguments is None else arguments
    config = parse(ServingConfig, Call("python -m scripts.measure_serving", __doc__ or ""), given)
    from vlv.benchmarks.machine import describe_machine

    urls = [_data_url(number) for number in range(_SCENES)]
    rows = [
        {"batch_size": size, "clients": clients, **_measure(config, size, clients, urls)} for size, clients in _ROWS
    ]
    machine = describe_machine([])
    print(f"{machine.title}\n\n{table(rows)}")
    if config.json is not None:
        content = {"machine": asdict(machine), "requests": config.requests, "rows": rows}
        Path(config.json).write_text(json.dumps(content, indent=2) + "\n")


def table(rows: list[dict[str, float]]) -> str:
    """What was measured, as Markdown."""
    lines = ["| `batch_size` | clients | requests/s | median, s | 95 %, s |", "| --- | --- | --- | --- | --- |"]
    for row in rows:
        cells = [row["batch_size"], row["clients"], f"{row['per_second']:.1f}"]
        cells += [f"{row['median']:.2f}", f"{row['most']:.2f}"]
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def _measure(config: ServingConfig, batch_size: int, clients: int, urls: list[str]) -> dict[str, float]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    call = [sys.executable, "-m", "vlv", "serve", config.ckpt_dir, f"port={port}", f"batch_size={batch_size}"]
    import asyncio  # here, as it loads ssl, which `--help` does not need

    with subprocess.Popen([*call, "model_name=captioner"]) as server:
        try:
            found = asyncio.run(_ask(f"http://127.0.0.1:{port}/v1", config.requests, clients, urls))
            return {"batch_size": batch_size, "clients": clients, **found}
        finally:
            server.terminate()


async def _ask(address: str, count: int, clients: int, urls: list[str]) -> dict[str, float]:
    import asyncio

    from openai import APIConnectionError, AsyncOpenAI

    limit, seconds = asyncio.Semaphore(clients), []

    async def one(number: int) -> None:
        image = {"type": "image_url", "image_url": {"url": urls[number % len(urls)]}}
        async with limit:
            started = time.perf_counter()
            messages = [{"role": "user", "content": [image]}]
            await client.chat.completions.create(model="captioner", messages=messages)  # type: ignore[arg-type]
            seconds.append(time.perf_counter() - started)

    async with AsyncOpenAI(base_url=address, api_key="none", max_retries=0, timeout=600) as client:
        while True:  # until it listens
            try:
                await one(0)
                break
            except APIConnectionError:
                await asyncio.sleep(0.2)
        await asyncio.gather(*(one(number) for number in range(clients)))  # its first batches reserve memory
        seconds.clear()
        started = time.perf_counter()
        await asyncio.gather(*(one(number) for number in range(count)))
        whole = time.perf_counter() - started
    return {"per_second": count / whole, "median": median(seconds), "most": quantiles(seconds, n=20)[-1]}


def _data_url(number: int) -> str:
    content = io.BytesIO()
    render(make_scene("test", number), number).save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


if __name__ == "__main__":
    main()
