"""How strong a loss term is in a step: a pure function of the position, without state."""


def term_factor(step: int, warmup_steps: int, stop_step: int | None) -> float:
    """Return what the weight of a term is multiplied by in step `step`.

    It rises linearly to 1, which it reaches in the last of the `warmup_steps` steps, and is 0
    from step `stop_step` on (`None`: never).
    """
    if stop_step is not None and step >= stop_step:
        return 0.0
    return min(1.0, (step + 1) / warmup_steps) if warmup_steps else 1.0
