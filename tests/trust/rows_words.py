"""Flags with words that name nothing, and flags that exclude each other, for every command."""

from .bad import bad, occupied
from .commands import ABSTAIN, CLASSIFY, COMPARE, DISTILL, DPO, EVALUATE, GRPO, PPO, PRE, RLOO, SCALING, SFT, TOKENIZER

WORDS = [
    bad("a flag that is misspelt", f"{PRE} --learning_rat 1", "--learning_rat", "did you mean --learning_rate?"),
    bad("a flag without its value", "generate x --model", "--model", "expected one argument"),
    bad("an architecture that is none", f"{PRE} --architecture transfomer", "'transfomer'", "transformer"),
    bad("a preset that is none", f"{PRE} --preset rhapsode-10n", "rhapsode-10n", "did you mean 'rhapsode-10m'"),
    bad("neither preset nor model", f"{PRE} --preset none", "--preset none", "name a design or a model"),
    bad("an optimizer that is none", f"{PRE} --optim adam", "--optim", "'adam'", "adamw"),
    bad("a kernel that is none", f"{PRE} --attn_implementation eagre", "eagre", "eager"),
    bad("a kernel that is none", f"{SFT} --attn_implementation eagre", "eagre", "eager"),
    bad("a kernel that is none", f"{SCALING} --attn_implementation eagre", "eagre", "eager"),
    bad("a tracker that is none", f"{PRE} --report_to tensorbord", "'tensorbord'", "tensorboard"),
    bad("a tracker that is none", f"{SFT} --report_to tensorbord", "'tensorbord'", "tensorboard"),
    bad("a pattern that fits nothing", f"{PRE} --freeze model.laiers.*", "'model.laiers.*'", "fits no parameter"),
    bad("everything frozen", f"{PRE} --freeze *", "--freeze *", "nothing to train"),
    bad("everything frozen", f"{CLASSIFY} --freeze *", "--freeze *", "nothing to train"),
    bad("a factor that is none", f"{PRE} --lr_multipliers *.weight", "'*.weight'", "pattern=factor"),
    bad("adapters on layers that are not there", f"{SFT} --use_peft --lora_target_modules qproj", "qproj", "q_proj"),
    bad("two kinds of bfloat16", f"{PRE} --pure_bf16 --no-bf16", "--pure_bf16", "--no-bf16", "leave one out"),
    bad("float8 without such hardware", f"{PRE} --fp8", "--fp8", "leave it out"),
    bad("recomputing half of nothing", f"{PRE} --gradient_checkpointing_every 2", "every 2", "add it"),
    bad("a warm-up of one batch", f"{PRE} --batch_warmup_steps 2", "--batch_warmup_steps 2", "accumulate more"),
    bad(
        "a way to share without processes", f"{PRE} --accelerate_config ddp", "--accelerate_config ddp", "say how many"
    ),
    bad("a way to share that is none", f"{PRE} --num_processes 2 --accelerate_config fsdp3", "fsdp3", "fsdp2"),
    bad(
        "a stream without an end",
        "pretrain --streaming --dataset {d} --tokenizer {t} --preset rhapsode-10m-tiny "
        "--max_length 32 --output_dir out",
        "--streaming",
        "say --max_steps",
    ),
    bad("a stream for n-grams", f"{PRE} --architecture ngram --streaming", "ngram", "without --streaming"),
    bad("a metric that is none", f"{PRE} --metric_for_best_model accuracy", "'accuracy'", "eval_loss"),
    bad("a loss that is none", f"{DPO} --loss_type sigmoyd", "'sigmoyd'", "sigmoid"),
    bad("student and design", f"{DISTILL} --preset gpt2", "--model", "--preset gpt2", "one of them"),
    bad("changes to no design", f"{DISTILL} --config_overrides a=1", "--config_overrides a=1", "give one"),
    bad("no way to train", f"{ABSTAIN} --train_config x.yaml", "--train_config", "--train sft"),
    bad(
        "a run before that is none", "abstain --model {m} --before nowhere --output_dir out", "nowhere", "--output_dir"
    ),
    bad("frozen with adapters", f"{CLASSIFY} --freeze x --use_peft", "--freeze", "--use_peft", "use one"),
    bad("labels of a kind that is none", f"{CLASSIFY} --problem_type multi", "'multi'", "multi_label_classification"),
    bad("no reward", "ppo --model {m} --dataset {prompts} --output_dir out", "--reward_model", "at least one"),
    bad("a reward that is none", f"{PPO} --reward_funcs nothing.here:f", "nothing.here:f", "cannot be imported"),
    bad("a function that is none", f"{GRPO} --reward_funcs math:sinn", "math:sinn", "no function 'sinn'"),
    bad(
        "a function without kwargs",
        f"{GRPO} --reward_funcs mine.py:f",
        "mine.py:f",
        "**kwargs as well",
        files={"mine.py": "def f(completions): return [0.0]"},
    ),
    bad("a reward without its file", f"{RLOO} --reward_funcs mine.py:f", "mine.py:f", "cannot be imported"),
    bad("a value model that is none", f"{PPO} --value_model nowhere", "value_model", "nowhere"),
    bad("an architecture twice", f"{COMPARE} --architectures lstm lstm", "--architectures lstm lstm", "each once"),
    bad("an architecture that is none", f"{COMPARE} --architectures lsmt", "'lsmt'", "did you mean 'lstm'"),
    bad("a change to nothing", f"{COMPARE} --config_overrides hidden_size=3", "'hidden_size=3'", "architecture.field"),
    bad(
        "a field that is none",
        f"{COMPARE} --architectures lstm --config_overrides lstm.hiden_size=3",
        "hiden_size",
        "did you mean 'hidden_size'",
    ),
    bad("a preset that is none", f"{COMPARE} --architectures transformer --preset gpt3", "gpt3", "gpt2"),
    bad("a preset that is none", f"{SCALING} --preset gpt3", "gpt3", "gpt2"),
    bad("an algorithm that is none", f"{TOKENIZER} --algorithm bpee", "'bpee'", "bpe"),
    bad(
        "a preset that is none", f"{TOKENIZER} --vocab_size 600 --compare --train_steps 1 --preset gpt3", "gpt3", "gpt2"
    ),
    bad("a task that is none", f"{EVALUATE} --tasks python_builtin", "python_builtin", "did you mean python_builtins"),
    bad("an example that is none", f"{EVALUATE} --per_example x.jsonl", "--per_example x.jsonl", "give --tasks"),
    bad("a part that is none", f"{EVALUATE} --split test", "'test'", "validation"),
    bad("a tool that is none", "chat hello --model {m} --tools calculater", "calculater", "calculator"),
    bad(
        "a search of nothing", "chat hello --model {m} --tools search_documentation", "--documents", "name a directory"
    ),
    bad("documents that are not there", "chat hello --model {m} --documents nowhere", "--documents nowhere", "no such"),
    bad("prompts without output", "generate --model {m} --prompts p.txt", "--prompts", "--output", "give both"),
    bad("two kinds of prompts", "generate x --model {m} --prompts p.txt --output o.jsonl", "--prompts", "one of them"),
    bad(
        "an output that is no table", "generate --model {m} --prompts p.txt --output o.txt", "--output o.txt", ".jsonl"
    ),
    bad("nothing to go on with", "generate x --model {m} --resume", "--resume", "--prompts"),
    bad("no text", "inspect {m}", "model and a text", "--architecture"),
    bad("a page that is none", "inspect {m} text --output page.pdf", "--output page.pdf", ".html"),
    bad("design and model", "inspect {m} text --architecture gpt2", "--architecture", "give it alone"),
    bad("a design that is none", "inspect --architecture gpt3", "gpt3", "did you mean 'gpt2'"),
    bad("a text of nothing", "inspect {m} ''", "a model and a text", "--architecture"),
    bad("a host that is none", "serve --model {m} --host 999.1.1.1 --port 0", "--host 999.1.1.1", "choose another"),
    bad("a port in use", "serve --model {m} --port {port}", "--port", "in use", "choose another", build=occupied),
    bad("a device that is none", "serve --model {m} --device cudo --port 0", "--device cudo", "cuda"),
    bad("a format that is none", "serve --model {m} --dtype float64", "'float64'", "float32"),
    bad("a design that is none", "presets gpt2 gpt3", "gpt3", "did you mean 'gpt2'"),
    bad("a design of no name", "presets ''", "''", "use one of"),
    bad("a flag that is none", "presets --jsn", "--jsn", "did you mean --json?"),
    bad("a run twice", "report {m} {m}", "twice", "named"),
    bad("a run that is none", "report {m}", "holds no run", "config_resolved.yaml"),
    bad("a run that is not there", "report nowhere", "nowhere", "--output_dir of a run"),
    bad("a flag that is none", "demo --efort 1", "--efort", "did you mean --effort?"),
]
