"""Serving a model over HTTP in OpenAI's protocol, by transformers' own server.

`transformers serve` looks the class of a model up among its own and fails on any other. Here the class is put there
first; everything else, streaming and continuous batching included, is that server's.
"""

import importlib.util
import socket
import sys

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ..hub.opening import opening
from .cli import run_command
from .options.base import UserError, one_line
from .options.serve import ServeOptions
from .training.setup import load_model, load_tokenizer

LIBRARIES = ("fastapi", "uvicorn", "openai")


def run(options: ServeOptions) -> None:
    for library in LIBRARIES:
        if importlib.util.find_spec(library) is None:
            raise ModuleNotFoundError(f"No module named {library!r}", name=library)
    from transformers.cli.serve import Serve  # only here: it needs these libraries

    check_device(options.device)
    make_known(options.model)
    if load_tokenizer(options.model).chat_template is None:
        print(f"rhapsode serve: {options.model} has no chat template: /v1/completions alone works", file=sys.stderr)
    check_port(options.host, options.port)
    load_model(options.model, device_map="meta")  # the names and shapes of its weights: the server takes whatever comes
    server = Serve.__new__(Serve)  # its constructor serves, and returns when that ends
    try:
        server.__init__(
            force_model=options.model,
            continuous_batching=options.continuous_batching,
            cb_num_blocks=options.cb_num_blocks,
            cb_max_batch_tokens=options.cb_max_batch_tokens,
            device=options.device,
            dtype=options.dtype,
            host=options.host,
            port=options.port,
        )
    except (OSError, ValueError, RuntimeError, AttributeError) as error:
        raise UserError(f"--model {options.model}: cannot be served ({one_line(error, 300)})") from error
    finally:
        for part in ("_generation_state", "_model_manager"):  # their threads would keep the process after Ctrl-C
            if hasattr(server, part):
                getattr(server, part).shutdown()


def make_known(source: str) -> None:
    """Put the class of the model where transformers' server looks for it.

    Raises:
        UserError: no causal language model, or one whose code Rhapsode and transformers do not have.
    """
    from transformers.cli.serving import model_manager  # only here: it needs the libraries of the server

    with opening(f"--model {source}", UserError):
        config = AutoConfig.from_pretrained(source, trust_remote_code=False)  # and no question on the terminal
    model_class = AutoModelForCausalLM._model_mapping.get(type(config), None)
    named = (config.architectures or ["none"])[0]
    if model_class is None or model_class.__name__ != named:
        raise UserError(f"--model {source}: its class is {named}, which is no causal language model to be served")
    library = model_manager.transformers  # the server's own: transformers can replace itself in sys.modules
    if not hasattr(library, named):
        setattr(library, named, model_class)


def check_device(name: str) -> None:
    try:
        torch.device("cpu" if name == "auto" else name)
    except RuntimeError as error:
        raise UserError(f"--device {name}: {one_line(error, 300)}") from error


def check_port(host: str, port: int) -> None:
    """The server itself would say so only after the model is loaded, and in many lines."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        with socket.socket(family, kind, protocol) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the server does: a port just left is free
            probe.bind(address)
    except OSError as error:
        raise UserError(f"--host {host} --port {port}: {error.strerror}; choose another") from error


if __name__ == "__main__":
    sys.exit(run_command("serve", sys.argv[1:]))
