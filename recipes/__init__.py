"""Everything one runs. A file here is a command (`rhapsode pretrain` is `pretrain.py`), but for `cli.py`, which
finds it, and `process.py`, which tunes the process; a folder is what commands share.

options       the options of each command, light enough for `--help`
configs       ready-made YAML files
data          documents, and rows of token ids made of them
training      the parts of a training run, its checkpoints and reports
alignment     data, judge, runs and reports of sft, reward, dpo, kto
trainers      our own trainers: PPO
baselines     what a trained network has to beat
scaling_laws  ladders, fits, predictions
"""
