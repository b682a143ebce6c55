"""Captions on Ray Data beside the plain engine: speed, growth with its captioners, memory, and what kills leave.

python -m scripts.measure_ray
python -m scripts.measure_ray images=4000 kills=4 json=outputs/ray.json

The same images of the small world are captioned by each row of the table in turn, into a JSONL file; where nothing is
killed both engines' files have to hold the same lines. The last row is killed: workers, then the driver, at random
moments, and the same call goes on until it ends.
"""

from __future__ import annotations

import json
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from vlv.cli.entry import Call, parse
from vlv.settings import option, require

_EVERY = 2.0  # seconds between two looks at the processes' memory
_PLAIN = "plain"


@dataclass(frozen=True)
class RayConfig:
    """What is captioned, and how often it is killed."""

    ckpt_dir: str = option("assets/tiny/trained/captioner", "the captioner's folder", path="local")
    images: int = option(20_000, "images, which are made for it")
    captioners: list[int] = option([1, 2], "Ray's captioners, a row of the table each")
    batch_size: int = option(32, "images captioned at once")
    kills: int = option(12, "kills of the last row; every third one is the driver's")
    seed: int = option(0, "of what is killed, and when")
    folder: str = option("./outputs/measure_ray", "folder of the images and the captions", path="local")
    json: str | None = option(None, "file for every measurement", path="local")

    def __post_init__(self) -> None:
        for key in ("images", "batch_size"):
            require(getattr(self, key) >= 1, key, getattr(self, key), "give at least 1")
        require(self.kills >= 0, "kills", self.kills, "give 0 or more")


@dataclass
class Row:
    """One whole captioning.

    captioners: 0 is the plain engine. seconds: from the first finished block to the end of the last, so without the
    start. started: seconds until that first block. memory_mib: of all processes, at each quarter of the work at most.
    lines, distinct: of the output, and different ones of it. killed: workers and drivers.
    """

    name: str
    captioners: int
    images: int
    seconds: float = 0.0
    started: float = 0.0
    memory_mib: list[float] = field(default_factory=list)
    lines: int = 0
    distinct: int = 0
    killed: dict[str, int] = field(default_factory=dict)

    @property
    def per_second(self) -> float:
        """Images a second, all processes together."""
        return self.images / self.seconds


def main(arguments: list[str] | None = None) -> None:
    """Measure every row and print the table."""
    given = sys.argv[1:] if arguments is None else arguments
    config = parse(RayConfig, Call("python -m scripts.measure_ray", __doc__ or ""), given)
    from vlv.benchmarks.machine import describe_machine

    images = _images(Path(config.folder) / f"images{config.images}", config.images)
    rows = [_measure(config, images, 0), *(_measure(config, images, count) for count in config.captioners)]
    if config.kills:
        rows.append(_killed(config, images))
    expected = _lines(_output(config, _PLAIN))
    for row in rows:
        found = _lines(_output(config, row.name))
        row.lines, row.distinct = len(found), len(set(found))
        if sorted(found) != sorted(expected):
            raise SystemExit(f"{row.name}: its captions are not the plain engine's")
    machine = describe_machine([])
    print(f"{machine.title}\n\n{table(rows)}")
    if config.json is not None:
        settings = {key: value for key, value in asdict(config).items() if key not in ("folder", "json")}
        content = {"machine": asdict(machine), "settings": settings, "rows": [asdict(row) for row in rows]}
        Path(config.json).write_text(json.dumps(content, indent=2) + "\n")


def table(rows: list[Row]) -> str:
    """What was measured, as Markdown."""
    lines = [
        "| engine | images/s | first block after, s | MiB at each quarter | lines, distinct | killed |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        killed = ", ".join(f"{count} {what}" for what, count in sorted(row.killed.items()))
        memory = ", ".join(f"{value:,.0f}" for value in row.memory_mib)
        # Of a killed one most of the time is starting again.
        speed, started = ("", "") if row.killed else (f"{row.per_second:.1f}", f"{row.started:.1f}")
        cells = [row.name, speed, started, memory, f"{row.lines:,}, {row.distinct:,}", killed]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _images(folder: Path, count: int) -> Path:
    """As many scenes as files, each a number's own."""
    if folder.is_dir():
        return folder
    from vlv.atomic import whole_folder
    from vlv.shapes.render import render
    from vlv.shapes.scene import make_scene

    with whole_folder(folder) as place:
        for number in range(count):
            render(make_scene("test", number), number).save(place / f"{number:06}.png")
    return folder


def _output(config: RayConfig, name: str) -> Path:
    return Path(config.folder) / f"{name.replace(' ', '_')}.jsonl"


def _lines(path: Path) -> list[str]:
    return path.read_text().splitlines()


def _call(config: RayConfig, images: Path, output: Path, captioners: int) -> list[str]:
    call = [sys.executable, "-m", "vlv", "caption", str(images), f"ckpt_dir={config.ckpt_dir}", f"output_path={output}"]
    call += ["to=jsonl", "num_beams=1", f"batch_size={config.batch_size}"]
    return call + (["engine=ray", f"ray_captioners={captioners}"] if captioners else [])


def _fresh(output: Path) -> Path:
    """The folder of finished blocks of an output that is not begun."""
    partial = output.with_name(f"{output.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    output.unlink(missing_ok=True)
    return partial / "done"


def _measure(config: RayConfig, images: Path, captioners: int) -> Row:
    name = f"ray {captioners}" if captioners else _PLAIN
    row, output = Row(name, captioners, config.images), _output(config, name)
    done = _fresh(output)
    began = time.monotonic()
    seen: list[tuple[float, int, float]] = []  # seconds, blocks done, MiB
    with subprocess.Popen(_call(config, images, output, captioners), start_new_session=True) as driver:
        while driver.poll() is None:
            seen.append((time.monotonic() - began, _count(done), _memory_mib(driver.pid)))
            time.sleep(_EVERY)
    if driver.returncode:
        raise SystemExit(f"{name}: exit code {driver.returncode}")
    working = [look for look in seen if look[1]]
    row.started, row.seconds = working[0][0], working[-1][0] - working[0][0]
    most = max(blocks for _, blocks, _ in working)
    row.images = round(config.images * (most - working[0][1]) / most)
    for quarter in range(4):
        own = [mib for _, blocks, mib in working if quarter * most <= 4 * blocks <= (quarter + 1) * most]
        row.memory_mib.append(max(own, default=0.0))
    return row


def _killed(config: RayConfig, images: Path) -> Row:
    """The same captioning, killed again and again."""
    import psutil

    captioners = max(config.captioners)
    row, output = Row("ray, killed", captioners, config.images), _output(config, "ray, killed")
    done, draw, killed = _fresh(output), random.Random(config.seed), Counter[str]()
    while not output.exists():
        with subprocess.Popen(_call(config, images, output, captioners), start_new_session=True) as driver:
            before = _count(done)
            while driver.poll() is None:
                time.sleep(draw.uniform(1, 8))
                if killed.total() == config.kills or driver.poll() is not None or _count(done) == before:
                    continue  # it is let alone until it has done a block
                if killed.total() % 3 == 2:
                    killed["drivers"] += 1
                    driver.kill()
                    break
                workers = _workers(driver.pid)
                if workers:
                    with suppress(psutil.NoSuchProcess):
                        draw.choice(workers).kill()
                        killed["workers"] += 1
        if driver.returncode > 0:
            raise SystemExit(f"{row.name}: exit code {driver.returncode}")
    row.killed = dict(killed)
    return row


def _workers(pid: int) -> list:
    """The processes in which Ray does our work."""
    import psutil

    found = []
    for process in psutil.Process(pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "MapWorker" in " ".join(process.cmdline()):
                found.append(process)
    return found


def _count(done: Path) -> int:
    return sum(1 for _ in done.iterdir()) if done.is_dir() else 0


def _memory_mib(pid: int) -> float:
    """What a process and those that it started hold, shared pages counted once."""
    import psutil

    total = 0
    try:
        family = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in family:
        with suppress(psutil.Error):  # it has just ended
            total += process.memory_full_info().pss
    return total / 2**20


if __name__ == "__main__":
    main()
