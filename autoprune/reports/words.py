"""What pages have in common in words: when a loss is said aloud, numbers with a sign, targets, proposals."""

from collections.abc import Collection

from autoprune.config import TargetConfig
from autoprune.results.kept import FinishedTrial

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


def target_in_words(target: TargetConfig, metric: str, *, higher_is_better: bool, energy: str) -> str:
    """`metric` is what `max_drop` is of; `energy` says where energies come from."""
    cost = f"energy ({energy})" if target.metric == "energy" else target.metric
    if target.max_ratio is not None:
        return f"{cost} at most {target.max_ratio:.2f} of the original"
    if target.max_drop is not None:
        moves = "falls" if higher_is_better else "rises"
        return (
            f"least {cost} at which the search split's {metric} {moves} by at most {100 * target.max_drop:.4g} points"
        )
    return f"{cost} at most {target.max_value:,.6g}{unit_of(target)}"


def unit_of(target: TargetConfig) -> str:
    """What stands behind an absolute cost."""
    return "" if target.unit == "count" else f" {target.unit}"


def told_proposals(trials: Collection[FinishedTrial], tuner: str, assessor: str | None) -> str:
    """How many of a tuner's proposals missed the target, and how many trials were ended early. `assessor` None: none of
    ours to know of; an experiment of the user's own may have one."""
    clipped, stopped = sum(trial.was_clipped for trial in trials), sum(trial.was_stopped for trial in trials)
    within = f" and {'was' if clipped == 1 else 'were'} brought within it (clipped)" if clipped else ""
    told = f"{clipped or 'None'} of {len(trials)} proposals of {tuner}, which knows no target, missed it{within}"
    if assessor is None and not stopped:
        return told
    ended = f"{stopped} trial{'' if stopped == 1 else 's'} early (stopped)" if stopped else "no trial early"
    return f"{told}; {assessor or 'an assessor'} ended {ended}"
