"""What `rhapsode evaluate` measures; `recipes/evaluate.py` puts it together.

measured                    figures with their intervals
text                        perplexity and bits per byte, by source and by document
likelihood                  the probability of a text after another one
task, rendering, asking     a task file; its rows as prompts and choices; what the model makes of them
python_rows                 rows made from the running Python
memorization                the share of training text that is continued word for word
harness                     the same through lm-evaluation-harness
report                      one table, one JSON object
"""
