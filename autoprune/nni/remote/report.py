"""What a trial on another machine reports of its score, beside the figures that NNI shows: a text under one key."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from autoprune.errors import RunError
from autoprune.search.racing import Bar, Bars
from autoprune.store.kept import Kept, PolicyKey, closed
from autoprune.store.score import Score

REPORT = "autoprune"  # a text: NNI passes it on as it is
BARS = "bars"  # among the parameters of what one of our own searchers asks for


@closed
@dataclass(frozen=True)
class Report:
    """One look at a candidate."""

    parameters: dict[str, Any]  # as NNI's tuner proposed them
    policy: PolicyKey  # what was scored
    score: Score
    wall_s: float  # since the trial began


FORM = Kept("nni_report", TypeAdapter(Report))


def report_in(figures: Mapping[str, Any], trial: str) -> Report:
    """Raises `RunError` for figures without one."""
    try:
        return FORM.read(figures[REPORT])
    except (KeyError, TypeError, ValueError) as error:
        raise RunError(f"trial {trial}: reports no score of this version of autoprune ({error})") from None


def told_bars(bars: Bars) -> dict[str, Any]:
    """As parameters say it, beside the options."""
    return {BARS: json.dumps({look: [bar.seen, bar.reward] for look, bar in bars.items()})}


def bars_in(parameters: Mapping[str, Any]) -> Bars | None:
    """None: the parameters are a tuner's of NNI's."""
    if BARS not in parameters:
        return None
    return {int(look): Bar(*bar) for look, bar in json.loads(parameters[BARS]).items()}
