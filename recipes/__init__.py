"""Everything one runs. A file here is a command (`rhapsode pretrain` is `pretrain.py`); a folder is what they share.

options     the options of each command, light enough for `--help`      configs     ready-made YAML files
data        documents, and rows of token ids made of them               training    optimizers, checkpoints, reports
baselines   what a trained network has to beat
"""
