"""Loss terms of a training step: predictions and targets in, `LossTerms` out."""
