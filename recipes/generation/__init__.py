"""What `rhapsode generate` does with a file of prompts; `recipes/generate.py` continues one."""
