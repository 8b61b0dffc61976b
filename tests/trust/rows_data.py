"""Texts and tables of every kind, damaged in every way that a file can be."""

from .bad import assistant, bad, lines, packed, parquet, user
from .commands import ABSTAIN, CLASSIFY, DISTILL, DPO, EVALUATE, GRPO, KTO, PPO, REWARD, SFT

LATIN = "déjà vu\n".encode("latin-1")
TEXT = b"some text, and some more of it\n" * 300


def texts(name: str, content, *says: str, what: str = ""):
    """A source of texts, read by the command that is the quickest."""
    argv = f"tokenizer --vocab_size 400 --output_dir out --dataset {name}"
    return bad(what or f"{name}", argv, name, *says, files={name: content} if content is not None else {})


def rows(name: str, content, *says: str, of: str = SFT, what: str = ""):
    """A source of rows, in place of the one that is in order."""
    argv = of
    for kind in ("chats", "pairs", "prompts", "labels"):
        argv = argv.replace(f"{{{kind}}}", name)
    return bad(what or name, argv, *says, files={name: content})


GOOD = {"text": "hello"}
TEXTS = [
    texts("nowhere.txt", None, "no such file or directory"),
    texts("./nowhere", None, "no such file or directory"),
    texts("*.nothing", None, "no file matches"),
    texts("a/b/c", None, "no such file or directory"),
    texts("nobody/nothing", None, "neither a path nor a dataset"),
    texts("empty.txt", "", "no text", "give more"),
    texts("blank.md", " \n\t\n", "no text", "give more"),
    texts("latin.txt", LATIN, "byte 1 is not UTF-8", "convert"),
    texts("latin.md", LATIN, "byte 1 is not UTF-8", "convert"),
    texts("program.py", b"\x7fELF\x02\x01\x01\x00\xff\xfe", "is not UTF-8", "convert"),
    texts("picture.png", b"\x89PNG\r\n\x1a\n", "unknown kind '.png'", "use .txt"),
    texts("archive.zip", b"PK\x03\x04", "unknown kind '.zip'", "use .txt"),
    texts("archive.tar.gz", packed(b"x", "gz"), "unknown kind '.tar'", "use .txt"),
    texts("noname", "text", "without a suffix", "use .txt"),
    texts("line.jsonl", lines(*[GOOD] * 6, '{"text": "x"'), "line 7 is not JSON"),
    texts("latin.jsonl", lines(GOOD).encode() + b'{"text": "\xe9"}\n', "line 2", "not UTF-8", "convert"),
    texts("column.jsonl", lines({"body": "hello"}), "no column 'text'", "--text_column takes body"),
    texts("number.jsonl", lines({"text": 3}), "'text' holds int", "not text"),
    texts("null.jsonl", lines({"text": None}), "'text' holds NoneType", "not text"),
    texts("list.jsonl", lines([1, 2]), "list and not an object"),
    texts("deep.jsonl", "[" * 100_000 + "\n", "line 1 is not JSON"),
    texts("long.jsonl", '{"text": ' + "9" * 5000 + "}\n", "line 1 is not JSON"),
    texts("empty.jsonl", "", "no text", "give more"),
    texts("broken.json", '[{"text": "a"},\n {"text" "b"}]', "line 2 is not JSON"),
    texts("column.json", '[{"text": "a"}, {"txt": "b"}]', "row 2", "no column 'text'", "--text_column"),
    texts("number.json", "3", "int and not an object"),
    texts("empty.json", "", "is not JSON"),
    texts("latin.json", b'["\xe9"]', "not UTF-8", "convert"),
    texts("fake.parquet", TEXT, "not a parquet file"),
    texts("empty.parquet", b"", "not a parquet file"),
    texts("half.parquet", parquet({"text": ["a"] * 100})[:200], "not a parquet file"),
    texts("column.parquet", parquet({"body": ["a"]}), "no column 'text'", "--text_column takes body"),
    texts("number.parquet", parquet({"text": [1, 2]}), "row 1", "'text' holds int"),
    texts("column.csv", "a,b\n1,2\n", "no column 'text'", "--text_column takes a, b"),
    texts("quote.csv", 'text\n"never closed\n', "not CSV"),
    texts("short.csv", "a,text\nx\n", "line 2", "'text' holds NoneType"),
    texts("latin.csv", b"text\n\xe9\n", "not UTF-8", "convert"),
    texts("empty.csv", "", "no text", "give more"),
    texts("fake.txt.gz", TEXT, "gzip"),
    texts("half.txt.gz", packed(TEXT, "gz")[:-20], "ended before"),
    texts("flipped.jsonl.gz", packed(lines(*[GOOD] * 200).encode(), "gz")[:30] + b"\0" * 9, "flipped.jsonl.gz"),
    texts("fake.txt.bz2", TEXT, "Invalid data"),
    texts("half.txt.bz2", packed(TEXT, "bz2")[:-10], "ended before"),
    texts("fake.txt.xz", TEXT, "not supported"),
    texts("half.txt.xz", packed(TEXT, "xz")[:-10], "ended before"),
    texts("fake.txt.zst", TEXT, "--dataset fake.txt.zst"),
    texts("half.txt.zst", packed(TEXT, "zst")[:-5], "ended before"),
    bad(
        "a directory without texts",
        "tokenizer --output_dir out --dataset here",
        "here",
        "no .txt",
        files={"here/a.png": ""},
    ),
    bad(
        "a directory that is a file's name",
        "tokenizer --output_dir out --dataset x.txt",
        "x.txt",
        "directory",
        files={"x.txt/y.png": ""},
    ),
    bad("a name that is too long", f"tokenizer --output_dir out --dataset {'x' * 5000}", "xxx", "too long"),
    bad(
        "too little text",
        "pretrain --preset rhapsode-10m-tiny --tokenizer {t} --dataset a.txt --output_dir out",
        "a.txt",
        "training tokens, fewer than one sequence",
        "give more text",
        files={"a.txt": "hello\nworld\n"},
    ),
    bad("a text without a second half", f"{EVALUATE.replace('{d}', 'a.txt')}", "a.txt", "no text", files={"a.txt": ""}),
    bad(
        "a table without its column",
        EVALUATE.replace("{d}", "a.csv"),
        "a.csv",
        "--text_column",
        files={"a.csv": "b\n1\n"},
    ),
]
Q, A = user("a"), assistant("b")
CHATS = [
    rows("a.txt", "hello", "rows are read from", ".jsonl"),
    rows("a.jsonl", lines(*[{"messages": [Q, A]}] * 6, "{"), "line 7", "not JSON"),
    rows("a.jsonl", lines({"messages": "hello"}), "messages is a text", "list of objects", what="a text for messages"),
    rows("a.jsonl", lines({"message": [Q, A]}), "no column 'messages'", "'message'", what="a misspelt column"),
    rows("a.jsonl", lines({"messages": [A]}), "'assistant' after nothing", "the order is", what="an answer to nothing"),
    rows("a.jsonl", lines({"messages": [Q]}), "ends with role 'user'", "must end with assistant", what="no answer"),
    rows(
        "a.jsonl", lines({"messages": [{"role": "bot", "content": "x"}]}), "'bot'", "use system", what="a role of none"
    ),
    rows("a.jsonl", lines({"messages": [Q, assistant(" ")]}), "content is empty", "leave the row out", what="no words"),
    rows(
        "a.jsonl",
        lines({"messages": [Q, {"role": "assistant", "content": 3}]}),
        "content is int",
        "must be a text",
        what="a number for words",
    ),
    rows("a.jsonl", lines({"messages": ["hello", A]}), "messages[0]", "role and content", what="a text for a message"),
    rows("a.jsonl", lines({"messages": []}), "messages is []", "at least one", what="no message"),
    rows("a.jsonl", lines({"messages": None}), "messages is null", what="null for messages"),
    rows("a.jsonl", lines(3), "int and not an object", what="a number for a row"),
    rows("a.jsonl", "", "no row", "give more rows", what="an empty file"),
    rows("a.jsonl", lines({"messages": [Q, A]}), "no row in its validation split", "give more", what="one row"),
    rows("a.csv", "messages\nhello\n", "messages is a text", what="a CSV of messages"),
    rows("a.csv", "messages,b\nhello\n", "the header has 2 fields", what="a CSV of short rows"),
    rows("a.parquet", b"PAR1nonsense", "not a parquet file"),
    rows("a.jsonl.gz", packed(TEXT, "gz")[:40], "a.jsonl.gz"),
    rows("a.jsonl.xz", TEXT, "a.jsonl.xz", "not supported"),
    rows("a.jsonl.zst", TEXT, "a.jsonl.zst"),
    rows(
        "a.jsonl.bz2",
        packed(lines(*[{"messages": [user("a"), assistant("b")]}] * 9).encode(), "bz2")[:-10],
        "a.jsonl.bz2",
        "ended before",
    ),
    rows(
        "a.jsonl",
        lines(*[{"messages": [user(f"{i} word " * 300), A]} for i in range(9)]),
        "a row may have 128",
        "raise --max_length",
        what="rows that are all too long",
    ),
    rows("a.jsonl", lines({"prompt": "a", "completion": ""}), "completion", "content is empty", what="no completion"),
    rows("a.jsonl", lines({"prompt": "x", "chosen": "y"}), "no column 'rejected'", of=DPO, what="no worse answer"),
    rows(
        "a.jsonl",
        lines({"prompt": "x", "chosen": "y", "rejected": "y"}),
        "are the same",
        "leave this row out",
        of=DPO,
        what="no better answer",
    ),
    rows("a.jsonl", lines({"chosen": "y", "rejected": "z"}), "no column 'prompt'", of=REWARD, what="no question"),
    rows(
        "a.jsonl",
        lines({"prompt": "x", "completion": "y", "label": 1}),
        "label is 1",
        "use true",
        of=KTO,
        what="a number for a label",
    ),
    rows("a.jsonl", lines({"question": "x"}), "no column 'prompt'", "question", of=GRPO, what="no prompt"),
    rows(
        "a.jsonl", lines(*[{"prompt": f"{i}"} for i in range(9)]), "no column 'reference'", of=PPO, what="no reference"
    ),
    rows(
        "a.jsonl",
        lines(*[{"prompt": f"{i}"} for i in range(9)]),
        "no text in column 'reference'",
        of=ABSTAIN,
        what="no reference",
    ),
    rows(
        "a.jsonl",
        lines(*[{"messages": [user(f"{i}"), A]} for i in range(5)]),
        "a step takes 8",
        "more rows or lower",
        of=DISTILL,
        what="less than a batch",
    ),
    rows(
        "a.jsonl",
        lines({"text": "x", "lable": "y"}),
        "no column 'label'",
        "--label_column takes",
        of=CLASSIFY,
        what="no label",
    ),
    rows(
        "a.jsonl",
        lines({"text": 3, "label": "y"}),
        "text is 3",
        "must be a text",
        of=CLASSIFY,
        what="a number for a text",
    ),
    rows(
        "a.jsonl",
        lines(*[{"text": f"{i}", "label": "same"} for i in range(9)]),
        "1 label (same)",
        "needs two",
        of=CLASSIFY,
        what="one class",
    ),
    rows(
        "a.jsonl",
        lines(*[{"text": f"{i}", "label": {"a": 1}} for i in range(9)]),
        "label",
        of=CLASSIFY,
        what="an object for a label",
    ),
    bad("stdlib of no size", "sft --model {m} --dataset stdlib:x --output_dir out", "stdlib:x", "as in stdlib:400"),
    bad("stdlib of size 0", "dpo --model {m} --dataset stdlib:0 --output_dir out", "stdlib:0", "as in stdlib:400"),
    bad(
        "a dataset that is nowhere",
        "reward --model {m} --dataset nobody/nothing --output_dir out",
        "nobody/nothing",
        "neither a path nor a dataset",
    ),
    bad("held-out rows that are nowhere", f"{SFT} --eval_dataset nowhere.jsonl", "nowhere.jsonl", "no such file"),
    bad("a column that is none", f"{CLASSIFY} --text_column body", "no column 'body'", "text, label"),
]
ASK = "generate --model {m} --output o.jsonl --prompts"
ASKED = lines({"q": "1+1", "a": "2", "c": ["1", "2"]})


def task(what: str, yaml: str, *says: str, given: str = ASKED):
    files = {"my.yaml": yaml, "rows.jsonl": given}
    return bad(what, "evaluate --model {m} --tasks my.yaml", "my", *says, files=files)


GENERATION = "kind: generation\ndataset: rows.jsonl\nprompt: '{{ q }}'\nanswer: a\n"
PROMPTS = [
    bad("no file", f"{ASK} p.txt", "p.txt", "No such file"),
    bad("no prompts", f"{ASK} p.txt", "p.txt", "holds no prompt", files={"p.txt": "\n"}),
    bad("bytes", f"{ASK} p.txt", "p.txt", "utf-8", files={"p.txt": b"\xff\xfe"}),
    bad("no column", f"{ASK} p.jsonl", "p.jsonl, line 1", "'prompt'", "it has text", files={"p.jsonl": lines(GOOD)}),
    bad(
        "messages that are none",
        f"{ASK} p.jsonl",
        "p.jsonl, line 1",
        "role and content",
        files={"p.jsonl": lines({"prompt": [3]})},
    ),
    bad(
        "a role that is none",
        f"{ASK} p.jsonl",
        "line 1",
        "'bot'",
        "use system",
        files={"p.jsonl": lines({"prompt": [{"role": "bot", "content": "x"}]})},
    ),
    bad(
        "longer than the positions",
        f"{ASK} p.txt --max_new_tokens 120",
        "p.txt, line 1",
        "128 positions",
        files={"p.txt": "one two three four five six seven eight nine\n"},
    ),
    bad("a prompt beyond the positions", f"generate '{'word ' * 200}' --model {{m}}", "128 positions", "shorten it"),
    bad(
        "documents of bytes",
        "chat hello --model {m} --documents docs",
        "--documents docs",
        "no text",
        files={"docs/a.png": b"\xff"},
    ),
    bad(
        "a question beyond the positions", f"chat '{'word ' * 200}' --model {{m}}", "this turn has", "the context holds"
    ),
    task("no YAML", "kind: [", "not YAML"),
    task("a key that is misspelt", "promt: x\n", "'promt'", "did you mean prompt?"),
    task("a kind that is none", "kind: essay\n", "'essay'", "multiple_choice"),
    task("no rows", "kind: generation\nprompt: x\nanswer: a\n", "dataset is missing", "generation needs"),
    task("a template that is none", GENERATION.replace("{{ q }}", "{{ q"), "prompt", "{{ q"),
    task("a column that is none", GENERATION.replace("{{ q }}", "{{ z }}"), "line 1", "'z' is undefined", "q, a, c"),
    task("a template that reaches out", GENERATION.replace("{{ q }}", "{{ q.__class__.__mro__ }}"), "unsafe", "line 1"),
    task("no answer", GENERATION.replace("answer: a", "answer: z"), "answer 'z' gives nothing", "q, a, c"),
    task("a pattern that is none", GENERATION + "extract: '('\n", "'('", "regular expression"),
    task("an empty end", GENERATION + "until: ['']\n", "until", "ends every answer"),
    task(
        "choices that are one",
        "kind: multiple_choice\ndataset: rows.jsonl\nprompt: x\nanswer: a\nchoices: ['2']\n",
        "the choices are ['2']",
        "two texts or more",
    ),
    task(
        "an answer that is no choice",
        "kind: multiple_choice\ndataset: rows.jsonl\nprompt: x\nanswer: a\nchoices: ['3', '4']\n",
        "the answer is '2'",
        "must be one of",
    ),
    task("rows that are nowhere", GENERATION.replace("rows.jsonl", "nowhere.jsonl"), "nowhere.jsonl", "no such file"),
    task("rows that are damaged", GENERATION, "rows.jsonl, line 2", "not JSON", given=ASKED + "{\n"),
    task("more shots than rows", GENERATION + "num_fewshot: 5\n", "too few for 5 shots"),
    task("more words than positions", GENERATION + "max_new_tokens: 500\n", "max_new_tokens=500", "128"),
]
DATA = [*TEXTS, *CHATS, *PROMPTS]
