"""The revision of a hub's repository that a component came from, and its files' sha256 as the hub gives them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from vlv.atomic import write_whole
from vlv.checkpoints.identity import file_hash

RECORD = "download.json"  # in the component's folder


@dataclass(frozen=True)
class Revision:
    """One commit of a repository; sha256 of its large files by name."""

    repository: str
    commit: str
    sha256: dict[str, str]

    def damage(self, folder: Path) -> dict[str, str]:
        """The files that are there and are others than the hub's, with the reason. Reads all of them."""
        there = {name: digest for name, digest in self.sha256.items() if (folder / name).is_file()}
        return {
            name: f"its sha256 is not that of {self.repository} at {self.commit[:12]}"
            for name, digest in there.items()
            if file_hash(folder / name) != digest
        }

    def write(self, folder: Path) -> None:
        """Keep it in the component's folder."""
        folder.mkdir(parents=True, exist_ok=True)
        write_whole(folder / RECORD, (json.dumps(asdict(self), indent=2) + "\n").encode())


def read_revision(folder: Path) -> Revision | None:
    """What a component's folder came from; None where nothing was written down: it was put there by hand."""
    try:
        return Revision(**json.loads((folder / RECORD).read_text()))
    except (OSError, ValueError, TypeError):
        return None


def find_revision(repository: str, is_dataset: bool, folder: Path) -> Revision:
    """The commit to fetch: that of an earlier call, so that no folder mixes two; else the newest.

    Raises:
        OSError, ValueError: as the hub's client, where the hub gives no answer.
    """
    import huggingface_hub

    # A mirror's commit says nothing of the first repository's, so it is kept by name.
    known = read_revision(folder)
    commit = known.commit if known is not None and known.repository == repository else None
    hub = huggingface_hub.HfApi()
    look_up = hub.dataset_info if is_dataset else hub.model_info
    info = look_up(repository, revision=commit, files_metadata=True)
    digests = {item.rfilename: item.lfs.sha256 for item in info.siblings or [] if item.lfs is not None}
    return Revision(repository, str(info.sha), digests)
