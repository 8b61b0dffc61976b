"""A chat with a small model, or with a script in its place, for the tests of the chat."""

import json

import torch
from rhapsode import RhapsodeConfig, RhapsodeForCausalLM
from rhapsode.recipes.chatting.calls import Call
from rhapsode.recipes.chatting.session import Session, open_sources
from rhapsode.recipes.chatting.writing import Written
from rhapsode.recipes.options.chat import ChatOptions
from rhapsode.tokenization import token_ids
from rhapsode.tokenization.special_tokens import TOOL_CALL
from transformers import AutoTokenizer

LENGTH = 1024


def save_model(directory, tokenizer_directory) -> str:
    """A new model, sure of itself, so that draws differ little between kernels."""
    tokenizer = AutoTokenizer.from_pretrained(tokenizer_directory)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "max_position_embeddings": LENGTH}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "initializer_range": 0.5}
    config = RhapsodeConfig(vocab_size=len(tokenizer), **sizes, **heads, **token_ids(tokenizer))
    RhapsodeForCausalLM(config).save_pretrained(directory)
    tokenizer.save_pretrained(directory)
    return str(directory)


def write_documents(directory) -> str:
    directory.mkdir()
    (directory / "fruit.md").write_text("# Fruit\n\nApples are red.\n")
    (directory / "long.md").write_text("Pears are green. " * 20)
    (directory / "sea.txt").write_text("Whales are mammals.")
    return str(directory)


def session(opened, **options) -> Session:
    asked = ChatOptions(model="it", **{"temperature": 0, "max_new_tokens": 8, **options})
    return Session(*opened, asked, open_sources(asked))


class Script:
    """In place of the model: writes what it is told, and keeps what it has seen."""

    def __init__(self, chat: Session, *answers: str | Call, signal: str | None = None):
        self.tokenizer, self.answers, self.seen, self.signal = chat.writer.tokenizer, list(answers), [], signal
        chat.writer.write = self

    def __call__(self, ids, show=None) -> Written:
        self.seen.append(self.tokenizer.decode(ids))
        said = self.answers.pop(0)
        if isinstance(said, Call):
            said = f"{TOOL_CALL}{json.dumps({'name': said.name, 'arguments': said.arguments})}"
        ids = [*self.tokenizer(said, add_special_tokens=False)["input_ids"], self.tokenizer.eos_token_id]
        return Written(ids, 1.0, True, self.signal)
