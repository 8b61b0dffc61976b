"""A chat model that has learned its answers by heart, and a server of it in a process of its own."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import torch
from small_chats import chats, save_model
from transformers import AutoModelForCausalLM, AutoTokenizer

# As the console script, whose order of imports counts; a shell's background jobs ignore Ctrl-C.
COMMAND = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from rhapsode.recipes.cli import main
sys.exit(main())
"""
START = 300  # seconds that a loaded machine may take until the server listens


def learned_chats(directory: Path, tokenizer_directory: Path, count: int = 4) -> str:
    """So that greedy answers are far from ties, and end."""
    source = save_model(directory, tokenizer_directory)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(source), AutoTokenizer.from_pretrained(source)
    texts = [tokenizer.apply_chat_template(row["messages"], tokenize=False) for row in chats(count)]
    batch = tokenizer(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(200):
        loss = model(**batch, labels=labels).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(directory)
    return source


@contextlib.contextmanager
def server(*flags: str):
    """The address of `rhapsode serve` with these flags; the process gets the signal of Ctrl-C at the end."""
    offline = {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(
        [sys.executable, "-c", COMMAND, "serve", "--port", "0", "--device", "cpu", *flags],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | offline,
    )
    lines, listening = [], threading.Event()

    def read():
        for line in process.stderr:
            lines.append(line)
            if "running on" in line:
                listening.set()
        listening.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        listening.wait(START)
        found = re.search(r"running on (http://[\d.:]+)", "".join(lines))
        assert found, "".join(lines)[-2000:]
        yield found[1]
    finally:
        process.send_signal(signal.SIGINT)
        try:
            status = process.wait(START)
        finally:
            process.kill()
        reader.join(START)
        process.stderr.close()
    assert status == 130, "".join(lines)[-2000:]  # as after Ctrl-C
