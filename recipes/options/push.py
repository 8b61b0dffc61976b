"""Options of `rhapsode push`."""

from dataclasses import dataclass

from .base import UserError, option
from .output import check_license, check_shard_size


@dataclass
class PushOptions:
    """Publish a model on the Hub: export it, create the repository, upload. What `rhapsode export` wrote is sent as it
    is. It can be repeated, and sends only what is missing. The token comes from `hf auth login` or HF_TOKEN, never from
    the command line."""

    EXAMPLES = ("rhapsode push runs/mine --repo_id owner/mine --private",)

    model: str | None = option(None, "run directory, model directory, export or Hub id", positional=True)
    repo_id: str | None = option(None, "owner/name")
    private: bool = option(False, "the repository is its owner's alone")
    revision: str | None = option(None, "branch to write, created from main if need be; none is main")
    commit_message: str | None = option(None, "of the commit; none is 'Upload with Rhapsode'")
    tokenizer: str | None = option(None, "directory or Hub id of another tokenizer; none is the model's")
    dtype: str = option("auto", "number format of the weights", ("auto", "float32", "bfloat16", "float16"))
    max_shard_size: str = option("5GB", "size of one weight file")
    license: str | None = option(None, "the Hub's name of the weights' license, such as apache-2.0; none says nothing")
    endpoint: str | None = option(None, "address of another Hub; none is HF_ENDPOINT, or huggingface.co")

    def __post_init__(self):
        check_shard_size(self.max_shard_size)
        check_license(self.license)
        if self.endpoint is not None and not self.endpoint.startswith(("http://", "https://")):
            raise UserError(f"--endpoint {self.endpoint!r} is no address; it begins with https:// or http://")
