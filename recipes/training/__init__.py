"""The parts of a training run, an idea a file; `recipes/pretrain.py` puts them together.

before the first step   setup, parallel, launch; partial, precision, recompute, compilation
in a step               loss, liger, gradients, guard, optimizers, muon, schedule, ema, parameters
between steps           scoring, checkpoint, state, sealing, interrupt
of other trainers       whole_checkpoints: the same of those of transformers and trl
what is watched         watch, metrics, updates, hardware, energy, tracking
afterwards              outcome; report and curves are made in recipes/reporting/
"""
