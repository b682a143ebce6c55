"""Captions of a dataset's images from an endpoint: opens it, asks for what is left, and writes what there is."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import cast

from vlv.atomic import whole_file, write_whole
from vlv.config import CaptionApiConfig, ConfigError
from vlv.data.sample import BadSample, SampleSource
from vlv.datatools.answers import Record
from vlv.datatools.budget import Budget
from vlv.datatools.caption_report import Report, lines, report, tally
from vlv.datatools.captioning import ANSWERS, Captioning
from vlv.datatools.opening import open_dataset
from vlv.datatools.sent_image import image_file
from vlv.datatools.writers import Member, write_table
from vlv.inference.journal import Journal, write_json
from vlv.progress import Progress
from vlv.redaction import redact

_GROUP = 100  # rows of a row group, the unit that the loader reads


def caption_dataset(config: CaptionApiConfig, folder: Path) -> tuple[Report, str | None]:
    """Ask for what is left; returns the report, and which budget is spent.

    Args:
        folder: the destination, which the caller has locked.

    Raises:
        ConfigError: its captions were made with other settings.
        EndpointError: the endpoint cannot be used, or is down.
    """
    journal = Journal(folder / "journal", 0, config.identity())
    _require_same(journal, folder)
    opened = open_dataset(config.source, config, "off")
    source = opened.source
    journal.prepare()
    before = tally(cast("Iterator[Record]", journal.records(ANSWERS)))
    names = [source.name(index) for index in range(len(source))]
    todo = [place for place, name in enumerate(names) if not before.needs_no_request(name, config.ask_again)]
    print(f"{redact(config.source)}: {len(names):,} images, {len(names) - len(todo):,} of them have an answer")
    for note in opened.notes:
        print(f"  {note}")
    sys.stdout.flush()

    budget = Budget(config.max_requests, config.max_tokens_spent, config.max_tokens)
    budget.count_earlier(before.requests, before.prompt_tokens + before.completion_tokens, before.longest_prompt)
    progress = Progress("captions", len(todo))
    captioning = Captioning(config, source, journal, budget, progress)
    try:
        asyncio.run(captioning.run(todo))
    finally:
        progress.close()
        after = tally(cast("Iterator[Record]", journal.records(ANSWERS)))
        facts = report(after, names, config)
        _write(config, folder, source, names, after.newest, facts)
        print("\n".join(lines(facts)), flush=True)
    return facts, captioning.budget_spent


def _require_same(journal: Journal, folder: Path) -> None:
    """Refuse to mix captions of different settings.

    Raises:
        ConfigError: the folder's captions were made with others; names them.
    """
    if changes := journal.changes():
        raise ConfigError(
            f"destination={folder} has captions of other settings: {', '.join(changes)}: give the former values, or "
            "another destination"
        )


def _write(
    config: CaptionApiConfig,
    folder: Path,
    source: SampleSource,
    names: Sequence[str],
    newest: dict[str, Record],
    facts: Report,
) -> None:
    """Write what the journal holds of these images, each file whole."""
    records = {name: newest[name] for name in sorted(names) if name in newest}
    captions = {name: record["text"] for name, record in records.items() if record["outcome"] == "caption"}
    write_json(folder / "captions.json", captions)
    left = [
        {"name": name, "outcome": record["outcome"], "reason": record["text"]}
        for name, record in records.items()
        if record["outcome"] != "caption"
    ]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in left)
    write_whole(folder / "left_out.jsonl", text.encode("utf-8", "backslashreplace"))
    write_json(folder / "report.json", asdict(facts))
    if config.parquet is not None and not facts.unanswered:
        path = Path(config.parquet)
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as partial:
            rows = write_table(partial, _pairs(config, source, names, captions), ("image", "caption"), _GROUP)
        print(f"{path}: {rows:,} pairs")


def _pairs(
    config: CaptionApiConfig, source: SampleSource, names: Sequence[str], captions: dict[str, str]
) -> Iterator[Member]:
    for index, name in enumerate(names):
        if name not in captions:
            continue
        try:
            image = image_file(source.read(index).image, config.decode_settings())
        except BadSample as error:  # it could be read when it was sent
            print(f"{name}: left out of {config.parquet}: {error}", file=sys.stderr)
            continue
        yield Member(name, name, image, "", captions[name])
