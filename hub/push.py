"""Publishing on the Hub: export, check, create the repository, upload. Repeated, it goes on where it broke off.

The upload is huggingface_hub's `upload_folder`: weights that the Hub has are not sent again, and exports of one model
are equal byte for byte. The token comes from where huggingface_hub keeps it (`hf auth login`, HF_TOKEN); it is no
option, so that it stands in no list of processes and in no file of a run.
"""

import glob
import inspect
import tempfile
from fnmatch import fnmatch
from functools import partial
from pathlib import Path

from huggingface_hub import CommitInfo, HfApi, get_token
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from .code import refuse_changed_code
from .export import export
from .run import OPTIONS
from .secrets import refuse_secrets
from .source import FILES, check_repository, check_revision, hub_errors
from .untrusted import check_weights

# What an earlier push of another model may have left and loading would take: what is not sent again is removed.
REPLACED = (
    *("*.safetensors", "*.safetensors.index.json", "*.bin", "*.bin.index.json", "*.py", "adapter_config.json"),
    *("chat_template.jinja", "generation_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt"),
)


def push(
    model_or_dir: PreTrainedModel | str | Path,
    repo_id: str,
    private: bool = False,
    revision: str | None = None,
    commit_message: str | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    dtype: str = "auto",
    max_shard_size: int | str = "5GB",
    license: str | None = None,
    token: str | None = None,
    endpoint: str | None = None,
) -> str:
    """Publish a model, and return the address of what was published.

    Args:
        model_or_dir: what `export` takes, or a directory that it wrote, which is sent as it is.
        repo_id: owner/name; created where there is none.
        private: the repository is to be seen by its owner alone; a public one is then refused, and not changed.
        revision: the branch, created from main where there is none; `main` where `None`.
        tokenizer, dtype, max_shard_size, license: as for `export`.
        token: where `None`, the one that huggingface_hub keeps.
        endpoint: address of another Hub.

    Raises:
        ValueError: what `export` refuses, a name that cannot be one, no token or one that is refused, something like a
            token among the files, a network that fails. Whatever was sent stays, and need not be sent again.
    """
    check_repository(repo_id)
    if "/" not in repo_id:
        raise ValueError(f"{repo_id!r} lacks its owner; give owner/name")
    check_revision(revision)
    token = token or get_token()
    if not token:
        raise ValueError("there is no token for the Hub; `hf auth login`, or set HF_TOKEN")
    api = HfApi(endpoint=endpoint, token=token)
    with hub_errors(f"{api.endpoint} cannot be asked who you are", token=token):
        api.whoami()  # before minutes of work for an upload that cannot be
    settings = {"tokenizer": tokenizer, "dtype": dtype, "max_shard_size": max_shard_size, "license": license}
    with tempfile.TemporaryDirectory() as work:
        if _is_export(model_or_dir):
            folder = Path(model_or_dir)
            _refuse_settings(folder, settings)
        else:
            folder = export(model_or_dir, Path(work) / "export", name=repo_id, **settings)
        check_publishable(folder, token)
        again = {"repeat": "do it again, what is there is not sent again", "token": token}
        with hub_errors(f"{repo_id} was not published", **again):
            api.create_repo(repo_id, private=private or None, exist_ok=True)
            is_private = api.repo_info(repo_id).private
        if private and not is_private:
            raise ValueError(f"{repo_id} is public; make it private in its settings first, or leave --private out")
        with hub_errors(f"{repo_id} was not published", **again):
            if revision is not None:
                api.create_branch(repo_id, branch=revision, exist_ok=True)
            done = _upload(api, folder, repo_id, revision, commit_message)
    return f"{api.endpoint}/{repo_id}" + (f"/tree/{revision}" if revision else "") + f" ({done.oid[:8]})"


def check_publishable(folder: Path, token: str | None = None) -> None:
    """
    Raises:
        ValueError: no weights, changed code, a link to a file elsewhere, something like a token.
    """
    check_weights(folder)
    refuse_changed_code(folder)
    for path in folder.rglob("*"):
        if path.is_symlink():
            raise ValueError(f"{path} is a link; what it leads to would be published: put the file itself there")
    refuse_secrets(folder, token)


def _is_export(source) -> bool:
    """A directory with a card; a run's has options in place of one."""
    if not isinstance(source, str | Path):
        return False
    return (Path(source) / "README.md").is_file() and not (Path(source) / OPTIONS).is_file()


def _refuse_settings(folder: Path, settings: dict) -> None:
    """An export is sent as it is."""
    defaults = {f.name: f.default for f in inspect.signature(push).parameters.values()}
    for name, value in settings.items():
        if value != defaults[name]:
            raise ValueError(f"{folder} is an export and is sent as it is; leave {name} out, or give the model's own")


def _upload(api: HfApi, folder: Path, repo_id: str, revision: str | None, message: str | None) -> CommitInfo:
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        revision=revision,
        commit_message=message or "Upload with Rhapsode",
        allow_patterns=list(FILES),
        ignore_patterns=[".*", "*/.*"],
        delete_patterns=[glob.escape(name) for name in _left_over(api, folder, repo_id, revision)],
    )


def _left_over(api: HfApi, folder: Path, repo_id: str, revision: str | None) -> list[str]:
    """Files at the top of the repository that a model is opened from, and this one does not have."""
    names = [name for name in api.list_repo_files(repo_id, revision=revision) if "/" not in name]
    return [name for name in names if any(map(partial(fnmatch, name), REPLACED)) and not (folder / name).exists()]
