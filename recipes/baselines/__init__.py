"""What a trained transformer has to beat: the language models before it, in the same harness.

kneser_ney   counts of n-grams, smoothed      documents      where packed documents begin
ngram        the model made of them           causal_lm      what the trained ones share
feedforward  Bengio et al. 2003               recurrent      Elman 1990; Hochreiter and Schmidhuber 1997
configuration_baselines  the switches of each build          from the command line's words to a model

Each is a `PreTrainedModel`: AutoModelForCausalLM opens it, `generate` writes with it, `rhapsode evaluate` measures it.
All files but `build` travel with a saved model as remote code: they import torch, transformers and each other only.
"""
