"""The training loop and what it keeps: schedules, optimizers, checkpoints, the journal."""
