"""Writing text with a model: `writing.py` after any prompt, `prompt_file.py` after those of a file."""
