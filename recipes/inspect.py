"""Looking inside: a page about what a model makes of a text, or the drawing of a preset."""

import sys
from pathlib import Path

import torch
import transformers

from ..modeling import RhapsodeConfig, RhapsodeForCausalLM
from ..tokenization.encoding import encode_prompt
from .cli import run_command
from .inspection.blueprint import blueprint
from .inspection.page import render
from .inspection.reading import read_text
from .inspection.rotation import rotation
from .options.base import UserError, write_whole
from .options.inspect import InspectOptions
from .options.output import check_parents
from .training.setup import load_pair


def run(options: InspectOptions) -> None:
    if not options.architecture and not (options.model and options.text):
        raise UserError("needs a model and a text, as in rhapsode inspect runs/pretrain 'def '; or --architecture")
    target = Path(options.output)
    check_parents("output", target)
    if target.is_dir():
        raise UserError(f"--output {target} is a directory; name a file in it")
    data = inspect_preset(options.architecture) if options.architecture else inspect_model(options)
    data["versions"] = f"torch {torch.__version__}, transformers {transformers.__version__}"
    target.parent.mkdir(parents=True, exist_ok=True)
    print(write_whole(target, render(data)))


def inspect_preset(name: str) -> dict:
    try:
        config = RhapsodeConfig.from_preset(name)
    except ValueError as error:
        raise UserError(f"--architecture: {error}") from error
    with torch.device("meta"):
        model = RhapsodeForCausalLM(config)
    rotary = model.model.rotary_emb
    if rotary is not None:  # the angles are numbers, which the meta device has none of
        model.model.rotary_emb = type(rotary)(config, device="cpu")
    return {"title": name, "reading": None, "rotation": rotation(model), "blueprint": blueprint(model)}


def inspect_model(options: InspectOptions) -> dict:
    trust = {"trust_remote_code": options.trust_remote_code}
    # Only the plain kernel gives its weights away.
    model, tokenizer = load_pair(options.model, attn_implementation="eager", **trust)
    model.eval()
    ids = encode_prompt(tokenizer, options.text)
    longest = getattr(model.config, "max_position_embeddings", None) or options.max_tokens
    kept = ids[: min(options.max_tokens, longest)]
    if len(kept) < 2:
        raise UserError(f"the text has {len(kept)} token; give one of 2 or more, so that there is something to predict")
    if len(kept) < len(ids):
        why = "--max_tokens takes more" if len(kept) < longest else f"the model has {longest} positions"
        print(f"the first {len(kept)} of {len(ids)} tokens are shown; {why}", file=sys.stderr)
    reading = read_text(model, tokenizer, kept, options.top)
    drawing = {"rotation": rotation(model), "blueprint": blueprint(model)}
    return {"title": options.model, "reading": reading | {"cut": len(ids) - len(kept)}} | drawing


if __name__ == "__main__":
    sys.exit(run_command("inspect", sys.argv[1:]))
