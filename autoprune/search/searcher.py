"""What a searcher is: it proposes policies and is told what they came to. `search.loop` does all the rest."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from safetensors import SafetensorError, safe_open
from safetensors.torch import save, save_file
from torch import Tensor, nn

from autoprune.errors import InputError, shown
from autoprune.foundation.factories import check_call
from autoprune.foundation.files import atomic_path
from autoprune.search.problem import Outcome, PredictedProblem, meets
from autoprune.space.decision import Policy, is_policy

FIELD = "search.agent"
FACTS = "facts"
EPISODES_EACH = 4  # per evaluation: a search that has nothing new to ask ends


@dataclass(frozen=True)
class Brief:
    """What a searcher is given: what can be known of a problem without evaluating, and how far it may go."""

    problem: PredictedProblem
    seed: int  # all chance comes from it
    max_evaluations: int  # > 0, of distinct policies

    @property
    def max_episodes(self) -> int:
        return EPISODES_EACH * self.max_evaluations


@dataclass(frozen=True)
class Ask:
    """Policies to evaluate next, in this order or side by side; none: there is nothing more to ask.

    Probes get a first look only. They count as evaluations, but may break limits, are no episodes and never the best.
    """

    policies: tuple[Policy, ...]
    are_probes: bool = False


@dataclass(frozen=True)
class SearcherState:
    """All that a searcher has learnt, to go on from in another process: JSON, and tensors by name."""

    facts: Any
    tensors: Mapping[str, Tensor] = field(default_factory=dict)


class Searcher(Protocol):
    """Looks for the policy with the highest reward.

    `ask` and `tell` come in turn. What is told are the outcomes of the first so many policies that were asked for, all
    unless the budget is spent; of a probe the score counts alone. The state may be taken at any time, and stays as it
    is then; a fresh searcher of the same kind and brief that is given it goes on exactly as this one would.
    """

    @property
    def name(self) -> str: ...

    def ask(self) -> Ask: ...

    def tell(self, outcomes: Sequence[Outcome]) -> None: ...

    def state(self) -> SearcherState: ...

    def restore(self, state: SearcherState) -> None: ...

    def trained(self) -> nn.Module | None:
        """The agent as it is now, observations (batch, fields) to actions (batch, 1); None if it learns none."""
        ...


MakeSearcher = Callable[[Brief], Searcher]


def check_kept(searcher: Searcher) -> None:
    """Raises `InputError` for a searcher that lacks a method or a name, or whose state cannot be saved."""
    for method, given in (("ask", ()), ("tell", ((),)), ("state", ()), ("restore", (None,)), ("trained", ())):
        if not callable(found := getattr(searcher, method, None)):
            raise InputError(f"{FIELD}: {shown(searcher)} is no searcher: it has no method {method}")
        check_call(found, *given, field=FIELD)
    if not isinstance(name := getattr(searcher, "name", None), str) or not name.strip():
        raise InputError(f"{FIELD}: name: must be a text, got {shown(name)}")
    if not isinstance(state := searcher.state(), SearcherState):
        raise InputError(f"{FIELD}: {name}: state: must give a SearcherState, got {shown(state)}")
    try:
        save(*_packed(state))
    except (TypeError, ValueError, AttributeError, SafetensorError) as error:
        raise InputError(f"{FIELD}: {name}: state: cannot be saved, as facts of JSON and tensors ({error})") from None


def fault_of(asked: object, problem: PredictedProblem, *, as_given: bool = False) -> str | None:
    """What is wrong with what a searcher has asked for; None if nothing is.

    A policy is a tuple with the number of an option for each decision, and candidates meet every limit, unless they are
    `as_given`.
    """
    if not isinstance(asked, Ask) or not isinstance(asked.policies, tuple):
        return f"must give an Ask with a tuple of policies, got {shown(asked)}"
    for policy in asked.policies:
        if not is_policy(problem.decisions, policy):
            counts = ", ".join(f"{decision.name}: 0 to {len(decision.ladder) - 1}" for decision in problem.decisions)
            return f"{shown(policy)} is no policy; one is a tuple with a Python int for each decision ({shown(counts)})"
        if not as_given and not asked.are_probes and not meets(problem.predict(policy), problem.limits):
            return f"{shown(policy)} breaks a limit; only probes may"
    return None


def save_state(path: Path, state: SearcherState) -> None:
    """Write a state as safetensors, whole or not at all; its facts are the metadata."""
    tensors, metadata = _packed(state)
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata=metadata)


def load_state(path: Path) -> SearcherState:
    """Raises `InputError` that names the file if it is missing or holds no state."""
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return SearcherState(json.loads(file.metadata()[FACTS]), {name: file.get_tensor(name) for name in names})
    except (OSError, SafetensorError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise InputError(f"{path}: not the state of a searcher ({error})") from None


def _packed(state: SearcherState) -> tuple[dict[str, Tensor], dict[str, str]]:
    tensors = {name: tensor.detach().clone().contiguous() for name, tensor in state.tensors.items()}
    return tensors, {FACTS: json.dumps(state.facts, allow_nan=False)}
