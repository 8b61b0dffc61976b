"""What training loops share: hardware, optimizers, checkpoints, metrics, reports."""
