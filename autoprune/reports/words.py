"""What pages have in common in words: when a loss is said aloud, numbers with a sign, how to run a file, what a search
was after."""

from autoprune.config import RewardConfig
from autoprune.results.run import InputFigures

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


def run_code(given: InputFigures | None, *, file: str, level: bool = False) -> str | None:
    """How to run an exported file, in five lines of Python."""
    if given is None:
        return None
    mean, std = (", ".join(f"{value:.6g}" for value in values) for values in (given.mean, given.std))
    shape = ", ".join(map(str, given.shape))
    answers = "logits, level = session.run(None, {name: x})" if level else "(logits,) = session.run(None, {name: x})"
    return "\n".join(
        (
            "import numpy as np, onnxruntime",
            f'session = onnxruntime.InferenceSession("{file}")  # in the folder of this run',
            "name = session.get_inputs()[0].name",
            f"pixels = np.zeros((1, {shape}))  # your images, 0 to 255: (N, channels, height, width)",
            f"x = ((pixels / 255 - np.reshape([{mean}], (-1, 1, 1))) / np.reshape([{std}], (-1, 1, 1)))"
            '.astype("float32")',
            f"{answers}  # classes: {', '.join(given.classes[:5])}{', …' if len(given.classes) > 5 else ''}",
        )
    )


def reward_in_words(reward: RewardConfig) -> str:
    """What a search was after, for people who know no configuration."""
    if reward.form == "amc":
        return f"The reward is minus the share of wrong answers times the logarithm of the {reward.cost}."
    if ":" in reward.form:
        return f"The reward is {reward.form}, of a candidate's score and {reward.cost}."
    by_name = {
        "divergence": "minus the divergence of the cut's answers from the original's",
        "top1": "the share of right answers",
    }
    accuracy = by_name.get(reward.accuracy, f"{reward.accuracy}, minus it where lower values are better")
    if reward.form == "weighted":
        return (
            f"The reward is {accuracy}, less {reward.cost_weight:g} times the share of the {reward.cost} that is left."
        )
    return f"The reward is {accuracy}."
