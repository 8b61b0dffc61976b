"""The options of each command, as dataclasses. Nothing here imports torch."""
