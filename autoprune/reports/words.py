"""What pages have in common in words: when a loss is said aloud, numbers with a sign."""

USUAL_LOSS = 0.01  # of accuracy: what the project promises to stay below
P95_NOISE = 0.05  # as far apart as two measurements of one file easily lie


def signed(value: float, *, digits: int) -> str:
    text = f"{value:+.{digits}f}"
    return f"±{0:.{digits}f}" if float(text) == 0 else text.replace("-", "−")


def told_apart(change_ci95: tuple[float, float], *, model: str) -> str:
    """What the 95% interval of a change of accuracy says of `model` beside the original."""
    low, high = change_ci95
    if high < 0:
        return f"the {model} model is less accurate"
    if low > 0:
        return f"the {model} model is more accurate"
    if low == 0:
        return "the two cannot be told apart"
    return f"the two cannot be told apart, and a loss of up to {-100 * low:.2f} points is not excluded"
