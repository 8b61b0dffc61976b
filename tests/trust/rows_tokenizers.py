"""Tokenizers and chat templates that are missing, broken, or not the model's."""

from .bad import bad, broken, cut_off, holding, with_fields, without
from .commands import ABSTAIN, CLASSIFY, DPO, EVALUATE, REWARD, SFT, TOKENIZER


def lacking_template(folder):
    (folder / "chat_template.jinja").unlink()


def vocabulary_above(folder):
    """One token more than the model has rows for."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["more than there is"])
    tokenizer.save_pretrained(folder)


def lacking_eos(folder):
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = None
    tokenizer.save_pretrained(folder)


def at(command: str) -> str:
    return command.replace("{m}", "broken")


GENERATE = "generate hello --model broken"
NONE = without("tokenizer.json", "tokenizer_config.json")
TEMPLATE = f"{TOKENIZER} --chat_template x.jinja"


def template(what: str, text: str | bytes, *says: str):
    return bad(what, TEMPLATE, "x.jinja", *says, files={"x.jinja": text})


TOKENIZERS = [
    bad("none at all", GENERATE, "tokenizer broken", "cannot be opened", build=broken(NONE)),
    bad("none at all", "chat hello --model broken", "tokenizer broken", "cannot be opened", build=broken(NONE)),
    bad("none at all", at(EVALUATE), "broken", "cannot be opened", build=broken(NONE)),
    bad("none at all", at(SFT), "tokenizer broken", "cannot be opened", build=broken(NONE)),
    bad("none at all", "export --model broken --output_dir out", "broken", "cannot be opened", build=broken(NONE)),
    bad("none at all", "serve --model broken --port 0", "broken", "cannot be opened", build=broken(NONE)),
    bad("none at all", "inspect broken text", "tokenizer broken", "cannot be opened", build=broken(NONE)),
    bad(
        "none at all",
        "pretrain --tokenizer nowhere/here --dataset {d} --output_dir out",
        "nowhere/here",
        "cannot be opened",
    ),
    bad("not JSON", GENERATE, "tokenizer broken", "cannot be opened", build=broken(holding("tokenizer.json", "{"))),
    bad(
        "a JSON list", GENERATE, "tokenizer broken", "cannot be opened", build=broken(holding("tokenizer.json", "[1]"))
    ),
    bad(
        "an empty object",
        GENERATE,
        "tokenizer broken",
        "cannot be opened",
        build=broken(holding("tokenizer.json", "{}")),
    ),
    bad("cut off", at(SFT), "tokenizer broken", "cannot be opened", build=broken(cut_off("tokenizer.json"))),
    bad(
        "bytes", at(DPO), "tokenizer broken", "cannot be opened", build=broken(holding("tokenizer.json", b"\xff\xfe\0"))
    ),
    bad(
        "settings that are no JSON",
        GENERATE,
        "tokenizer_config.json",
        "is damaged",
        "cannot be opened",
        build=broken(holding("tokenizer_config.json", "{")),
    ),
    bad(
        "settings that are a list",
        GENERATE,
        "tokenizer_config.json",
        "is damaged",
        "cannot be opened",
        build=broken(holding("tokenizer_config.json", "[]")),
    ),
    bad(
        "a special token that is a number",
        GENERATE,
        "tokenizer broken",
        build=broken(with_fields("tokenizer_config.json", eos_token=3)),
    ),
    bad(
        "more tokens than the model has rows",
        at(SFT),
        "ids up to 400",
        "vocab_size=400",
        "use the model's own",
        build=broken(vocabulary_above),
    ),
    bad(
        "more tokens than the model has rows",
        GENERATE,
        "ids up to 400",
        "vocab_size=400",
        "use the model's own",
        build=broken(vocabulary_above),
    ),
    bad(
        "more tokens than the model has rows",
        at(EVALUATE),
        "ids up to 400",
        "vocab_size=400",
        "use the model's own",
        build=broken(vocabulary_above),
    ),
    bad(
        "more tokens than the model has rows",
        "chat hello --model broken",
        "ids up to 400",
        "vocab_size=400",
        build=broken(vocabulary_above),
    ),
    bad(
        "more tokens than the model has rows",
        "inspect broken text",
        "ids up to 400",
        "vocab_size=400",
        build=broken(vocabulary_above),
    ),
    bad(
        "more tokens than the model has rows",
        "export --model broken --output_dir out",
        "ids up to 400",
        "vocab_size=400",
        build=broken(vocabulary_above),
    ),
    bad(
        "more tokens than the model has rows",
        "pretrain --model broken --dataset {d} --output_dir out",
        "ids up to 400",
        "vocab_size=400",
        build=broken(vocabulary_above),
    ),
    bad("no end", at(DPO), "no eos_token", "set one", build=broken(lacking_eos)),
    bad("no chat template", at(DPO), "no chat_template", "rhapsode sft", build=broken(lacking_template)),
    bad("no chat template", at(REWARD), "no chat_template", "rhapsode sft", build=broken(lacking_template)),
    bad("no chat template", at(ABSTAIN), "no chat_template", "rhapsode sft", build=broken(lacking_template)),
    bad(
        "no chat template",
        "chat hello --model broken",
        "no chat_template",
        "rhapsode sft",
        build=broken(lacking_template),
    ),
    bad(
        "no chat template for an adapter",
        f"{at(SFT)} --use_peft",
        "no chat_template",
        "leave --use_peft out",
        build=broken(lacking_template),
    ),
    bad(
        "another stop",
        f"{CLASSIFY} --tokenizer broken",
        "eos_token_id",
        "the tokenizer's ids",
        build=broken(with_fields("tokenizer_config.json", eos_token="<|user|>")),
    ),
    bad(
        "a chat template with a mistake",
        "chat hello --model broken",
        "chat template",
        build=broken(holding("chat_template.jinja", "{% for %}")),
    ),
    bad(
        "a chat template with a mistake",
        at(SFT),
        "chat template",
        build=broken(holding("chat_template.jinja", "{% for %}")),
    ),
    bad(
        "a chat template that fails",
        at(DPO),
        "chat template",
        build=broken(holding("chat_template.jinja", "{{ messages[99].content }}")),
    ),
    bad(
        "a chat template without marks",
        at(SFT),
        "generation",
        build=broken(holding("chat_template.jinja", "{% for m in messages %}{{ m.content }}{% endfor %}")),
    ),
    bad(
        "a chat template that calls itself",
        at(SFT),
        "chat template",
        build=broken(holding("chat_template.jinja", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}")),
    ),
    bad(
        "a chat template that counts for ever",
        at(DPO),
        "chat template",
        build=broken(holding("chat_template.jinja", "{% for i in range(10 ** 12) %}x{% endfor %}")),
    ),
    bad(
        "a chat template that reaches out",
        "chat hello --model broken",
        "unsafe",
        build=broken(holding("chat_template.jinja", "{{ messages.__class__.__mro__[1].__subclasses__() }}")),
    ),
    bad("no file", TEMPLATE, "x.jinja", "No such file"),
    template("bytes", b"\xff\xfe", "utf-8"),
    template("a mistake", "{% for m in messages %}", "line 1"),
    template("a name that is none", "{{ massages[0].content }}", "fails on a question"),
    template("no content", "{% for m in messages %}{{ m.role }}{% endfor %}", "leaves out the content"),
    template("nothing", "", "leaves out the content"),
    template("one that calls itself", "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails on a question"),
    template("one that counts for ever", "{% for i in range(10 ** 12) %}x{% endfor %}", "fails on a question"),
    template("one that divides by zero", "{{ 1 / 0 }}", "fails on a question"),
    template("one that reaches out", "{{ messages.__class__.__mro__ }}", "fails on a question"),
]
