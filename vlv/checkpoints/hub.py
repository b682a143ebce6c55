"""Model cards, and uploading to the hub: the same call, and the same files as saving, for each of the model classes."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, cast

from huggingface_hub import HfApi

from vlv.checkpoints.card import CARD_NAME, model_card

_RECIPE = "config.yaml"


class _Savable(Protocol):
    def save_pretrained(self, folder: str, **options: object) -> None: ...


class HubUpload:
    """Adds a model card and `push_to_hub` to a class with `save_pretrained`."""

    loaded_from: Path | None = None  # the folder that `from_pretrained` read

    def card(self, folder: Path) -> str:
        """The model card of what was saved into a folder."""
        return model_card(folder)

    def save_card(self, folder: Path) -> None:
        """Write the card beside what was saved: the run's and its recipe, where the model was loaded with them."""
        source = self.loaded_from
        if source is not None and source.resolve() != folder.resolve():
            for name in (CARD_NAME, _RECIPE):
                if (source / name).is_file():
                    shutil.copyfile(source / name, folder / name)
        if source is None or not (source / CARD_NAME).is_file():
            (folder / CARD_NAME).write_text(self.card(folder))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        private: bool | None = None,
        token: str | None = None,
        max_shard_size: int | str | None = None,
    ) -> str:
        """Upload what `save_pretrained` writes.

        Args:
            repo_id: `name/model`, made where it is not there.
            commit_message: None says which class was uploaded.
            revision: the branch, made where it is not there; None is `main`.
            create_pr: propose the upload as a pull request instead of writing to the branch.
            private: whether a new repository is private; None is the account's default.
            token: access token; None is the one of `hf auth login`.
            max_shard_size: of VLVEncoder and VLVCaptioner, the largest weight file; a stage 1 has a single one.

        Returns:
            the address of the repository, or of the pull request.
        """
        api = HfApi(token=token)
        address = api.create_repo(repo_id, private=private, exist_ok=True)
        # refs/pr/N belongs to a pull request, which the hub alone makes.
        if revision is not None and not revision.startswith("refs/"):
            api.create_branch(repo_id, branch=revision, exist_ok=True)
        # By saving first: what is uploaded is what `save_pretrained` writes, card and recipe too.
        with tempfile.TemporaryDirectory() as folder:
            sizes = {} if max_shard_size is None else {"max_shard_size": max_shard_size}
            cast(_Savable, self).save_pretrained(folder, **sizes)
            commit = api.upload_folder(
                repo_id=repo_id,
                folder_path=folder,
                commit_message=commit_message or f"Upload {type(self).__name__}",
                revision=revision,
                create_pr=create_pr,
            )
        return str(commit.pr_url or address)


def refuse_upload(options: Mapping[str, object]) -> None:
    """Refuse transformers' other way to the hub: it uploads before all of a model's files are written.

    Raises:
        ValueError: `push_to_hub` is among the options of `save_pretrained`.
    """
    if options.get("push_to_hub"):
        raise ValueError("save_pretrained(push_to_hub=True) uploads a part of the files: call push_to_hub(repo_id)")
