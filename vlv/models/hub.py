"""Uploading to the hub: the same call, and the same files as saving, for each of the model classes."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

_OF_THE_RUN = ("README.md", "config.yaml")  # the model card and the recipe, written when the run ended


class HubUpload:
    """Adds `push_to_hub` to a class with `save_pretrained`."""

    loaded_from: Path | None = None  # the folder that `from_pretrained` read

    def push_to_hub(self, repo_id: str, *, private: bool | None = None, token: str | None = None, **kwargs: Any) -> str:
        """Upload what `save_pretrained` writes, with the run's model card and recipe where it was loaded with them.

        Args:
            repo_id: `name/model`, made where it is not there.
            private: whether a new repository is private; None is the account's default.
            token: access token; None is the one of `hf auth login`.
            kwargs: passed to `save_pretrained`, `max_shard_size` say.

        Returns:
            the repository's address.
        """
        api = HfApi(token=token)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        with tempfile.TemporaryDirectory() as folder:
            saved: Any = self
            saved.save_pretrained(folder, **kwargs)
            for name in _OF_THE_RUN:
                if self.loaded_from is not None and (self.loaded_from / name).is_file():
                    shutil.copyfile(self.loaded_from / name, Path(folder) / name)
            api.upload_folder(repo_id=repo_id, folder_path=folder, commit_message=f"Upload {type(self).__name__}")
        return str(address)
