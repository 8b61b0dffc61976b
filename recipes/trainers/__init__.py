"""Trainers that trl does not have. `rhapsode.trainers` is their public address."""
