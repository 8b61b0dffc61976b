"""YAML files of options, and directories that something else stands in."""

from .bad import bad, broken, lines
from .commands import COMPARE, EVALUATE, PRE, SFT, TOKENIZER

FILES = [
    bad("a file that is not there", "pretrain --config x.yaml", "--config x.yaml", "No such file"),
    bad("a directory", "pretrain --config .", "--config .", "directory"),
    bad("no YAML", "pretrain --config x.yaml", "x.yaml", "not YAML", files={"x.yaml": "a: [1\nb: }"}),
    bad("bytes", "sft --config x.yaml", "x.yaml", "not YAML", files={"x.yaml": b"\xff\xfe\x00\x01"}),
    bad(
        "an object", "sft --config x.yaml", "x.yaml", "not YAML", files={"x.yaml": "!!python/object/apply:os.getcwd []"}
    ),
    bad("a list", "dpo --config x.yaml", "x.yaml", "must be a mapping", files={"x.yaml": "- a\n- b\n"}),
    bad(
        "a key that is misspelt",
        "sft --config x.yaml",
        "'learning_rat'",
        "did you mean learning_rate?",
        files={"x.yaml": "learning_rat: 1\n"},
    ),
    bad("a key that is no text", "sft --config x.yaml", "3", "see --help", files={"x.yaml": "3: 1\n"}),
    bad(
        "a word for a number",
        "kto --config x.yaml",
        "max_steps='many'",
        "must be int or null",
        files={"x.yaml": "max_steps: many\n"},
    ),
    bad(
        "a number for a switch",
        "classify --config x.yaml",
        "truncation=1",
        "must be bool",
        files={"x.yaml": "truncation: 1\n"},
    ),
    bad("a list for a number", "ppo --config x.yaml", "beta=[1]", "must be float", files={"x.yaml": "beta: [1]\n"}),
    bad(
        "a text for a list",
        "pretrain --config x.yaml",
        "dataset='a'",
        "must be list of str",
        files={"x.yaml": "dataset: a\n"},
    ),
    bad(
        "a NaN",
        "pretrain --config x.yaml",
        "learning_rate=nan",
        "finite number",
        files={"x.yaml": "learning_rate: .nan\n"},
    ),
    bad(
        "an infinite time", "demo --config x.yaml", "max_seconds=inf", "finite", files={"x.yaml": "max_seconds: .inf\n"}
    ),
    bad(
        "an infinite weight",
        "grpo --config x.yaml",
        "reward_weights=[inf]",
        "finite",
        files={"x.yaml": "reward_weights: [.inf]\n"},
    ),
    bad(
        "a choice that is none",
        "rloo --config x.yaml",
        "lr_scheduler_type='cosin'",
        "cosine",
        files={"x.yaml": "lr_scheduler_type: cosin\n"},
    ),
    bad(
        "null for a text",
        "export --config x.yaml",
        "output_dir=None",
        "must be str",
        files={"x.yaml": "output_dir: null\n"},
    ),
    bad("a number for a name", "push --config x.yaml", "repo_id=3", "must be str", files={"x.yaml": "repo_id: 3\n"}),
    bad(
        "a file that names itself", "verify --config x.yaml", "'config'", "x.yaml", files={"x.yaml": "config: x.yaml\n"}
    ),
    bad(
        "options of another command",
        "presets --config x.yaml",
        "'max_steps'",
        "x.yaml",
        files={"x.yaml": "max_steps: 1\n"},
    ),
    bad(
        "a key that is not its own",
        "verify --config x.yaml",
        "'sha265'",
        "did you mean sha256?",
        files={"x.yaml": "sha265: a\n"},
    ),
]

RUN = {"out/config_resolved.yaml": "# rhapsode sft --config config_resolved.yaml\nmodel: m\ndataset: d\nseed: 0\n"}
RESUME = "sft --model m --dataset d --output_dir out --resume"
DIRECTORIES = [
    bad("a file in its place", PRE, "--output_dir out", "is a file", "name a directory", files={"out": "x"}),
    bad("a file above it", PRE.replace(" out", " x/out"), "x/out", "directory", files={"x": "x"}),
    bad("a file above it", SFT.replace(" out", " x/out"), "x/out", "directory", files={"x": "x"}),
    bad("another command's run", PRE, "--output_dir out", "not a pretrain run's", files=RUN),
    bad("somebody's letters", SFT, "--output_dir out", "name another directory", files={"out/letter.txt": "dear"}),
    bad("a run", SFT, "--output_dir out", "holds a run", "--resume", "--overwrite_output_dir", files=RUN),
    bad("another run to resume", f"{RESUME} --seed 3", "seed=3", "seed=0", "start a new run", files=RUN),
    bad(
        "options that are damaged",
        RESUME,
        "config_resolved.yaml is damaged",
        "write the run's options",
        files={"out/config_resolved.yaml": "# rhapsode sft --config x\n- 3\n"},
    ),
    bad(
        "the model itself",
        "dpo --model broken --dataset {pairs} --output_dir broken",
        "--output_dir broken",
        "name another",
        build=broken(),
    ),
    bad(
        "the teacher itself",
        "distill --model {m} --teacher broken --dataset {chats} --output_dir broken",
        "--output_dir broken",
        "name another",
        build=broken(),
    ),
    bad(
        "somebody's letters", TOKENIZER, "--output_dir out", "name another directory", files={"out/letter.txt": "dear"}
    ),
    bad("a file above it", TOKENIZER.replace(" out", " x/out"), "x/out", "is a file", files={"x": ""}),
    bad(
        "a file in its place",
        "scaling --dataset {d} --output_dir out",
        "--output_dir out",
        "is a file",
        files={"out": ""},
    ),
    bad("somebody's letters", COMPARE, "--output_dir out", "name another directory", files={"out/letter.txt": "dear"}),
    bad(
        "somebody's letters",
        "demo --output_dir out",
        "--output_dir out",
        "name another",
        files={"out/letter.txt": "dear"},
    ),
    bad(
        "somebody's letters",
        "quantize --model {m} --output_dir out",
        "out",
        "name a new",
        files={"out/letter.txt": "x"},
        needs="torchao",
    ),
    bad("no directory", "quantize --model {m}", "--output_dir", "name a new directory", needs="torchao"),
    bad("a page in a file", "inspect {m} text --output x/page.html", "x", "directory", files={"x": ""}),
    bad(
        "a page that is a directory",
        "inspect --architecture gpt2 --output x.html",
        "x.html",
        "directory",
        files={"x.html/a": ""},
    ),
    bad(
        "a report in a file",
        "report run --output_dir x",
        "x",
        "directory",
        files={"x": "", "run/metrics.jsonl": lines({"step": 1, "loss": 2.0})},
    ),
    bad(
        "metrics that are damaged",
        "report run",
        "metrics.jsonl is damaged",
        "delete",
        files={"run/metrics.jsonl": '{"step": 1}\n{"st\n'},
    ),
    bad(
        "metrics that are no objects",
        "report run",
        "metrics.jsonl is damaged",
        "delete",
        files={"run/metrics.jsonl": "3\n"},
    ),
    bad(
        "metrics without steps",
        "report run",
        "metrics.jsonl",
        "step",
        files={"run/metrics.jsonl": lines({"loss": 1.0})},
    ),
    bad(
        "results that are damaged",
        "report run",
        "results.json is damaged",
        "mend or delete",
        files={"run/metrics.jsonl": lines({"step": 1, "loss": 2.0}), "run/results.json": "{"},
    ),
    bad(
        "results that are a list",
        "report run",
        "results.json is damaged",
        "mend or delete",
        files={"run/metrics.jsonl": lines({"step": 1, "loss": 2.0}), "run/results.json": "[3]"},
    ),
    bad(
        "figures in a file that is there",
        f"{EVALUATE} --per_document x.jsonl",
        "x.jsonl",
        "name another",
        files={"x.jsonl": ""},
    ),
    bad("figures nowhere", f"{EVALUATE} --per_document x/y.jsonl", "x/y.jsonl", "make it first"),
    bad(
        "an output that is there",
        "generate --model {m} --prompts p.txt --max_new_tokens 9 --output o.jsonl",
        "o.jsonl",
        "--resume",
        files={"p.txt": "hello\n", "o.jsonl": ""},
    ),
    bad(
        "an output in a file",
        "generate --model {m} --prompts p.txt --max_new_tokens 9 --output x/o.jsonl",
        "x/o.jsonl",
        "directory",
        files={"p.txt": "hello\n", "x": ""},
    ),
    bad(
        "nothing of that kind to go on with",
        "generate --model {m} --prompts p.txt --max_new_tokens 9 --output o.jsonl --resume",
        "--resume",
        "o.jsonl",
        files={"p.txt": "hello\n"},
    ),
    bad("a cache in a file", f"{PRE} --data_cache x", "--data_cache x", "another directory", files={"x": ""}),
    bad(
        "a dataset of another kind of run",
        "abstain --model {m} --before run --output_dir out",
        "held_out.jsonl",
        "--output_dir of a run",
        files={"run/held_out.jsonl": lines({"prompt": 3})},
    ),
    bad(
        "held-out questions that are damaged",
        "abstain --model {m} --before run --output_dir out",
        "held_out.jsonl",
        "damaged",
        files={"run/held_out.jsonl": '{"greedy": \n'},
    ),
]

FILES_AND_DIRECTORIES = [*FILES, *DIRECTORIES]
