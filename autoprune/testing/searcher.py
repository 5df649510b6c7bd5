"""The contract of a searcher."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import nn

from autoprune.envs.observation import OBSERVATION_FIELDS
from autoprune.errors import InputError
from autoprune.search.problem import SearchProblem
from autoprune.search.searcher import (
    FIELD,
    Ask,
    Brief,
    MakeSearcher,
    Searcher,
    check_kept,
    fault_of,
    load_state,
    save_state,
)
from autoprune.search.toy import toy_problem
from autoprune.space.decision import Policy
from autoprune.testing.errors import ContractError

EVALUATIONS = 40  # of the toy's 625 policies
MOST_REPETITIONS = 20  # asks without a policy that is new, while there are others


def check_searcher(make: MakeSearcher) -> None:
    """A searcher proposes policies of its problem, comes to an end or to new ones, does the same for the same seed
    whatever else goes on, and goes on from its state, saved and loaded, as if it had not been stopped.

    It is tried on the toy problem (`autoprune.search.toy`), a few seconds long.
    """
    whole = _course(make)
    if not whole:
        raise ContractError("ask: gave no policy at all")
    if _course(make) != whole:
        raise ContractError("seed: the same brief gave other policies the second time; all chance must come from it")
    for stop in sorted({1, max(1, len(whole) // 2)}):
        for told in (True, False):
            rest = _resumed(make, stop, told=told)
            if rest != whole[stop:]:
                when = f"after {stop} asks" if told else f"between ask {stop} and tell"
                raise ContractError(
                    f"state: given to a new searcher {when}, it asked for {rest[:1]}, not for {whole[stop:][:1]}"
                )
    _check_partial(make)


def _made(make: MakeSearcher, problem: SearchProblem) -> Searcher:
    searcher = make(Brief(problem, seed=0, max_evaluations=EVALUATIONS))
    _check_kept(searcher)
    return searcher


def _check_kept(searcher: Searcher) -> None:
    try:
        check_kept(searcher)
    except InputError as error:
        raise ContractError(str(error).removeprefix(f"{FIELD}: ")) from None


def _course(make: MakeSearcher) -> list[tuple[Policy, ...]]:
    problem = toy_problem()
    return _played(_made(make, problem), problem, [])


def _played(
    searcher: Searcher, problem: SearchProblem, asked: Sequence[tuple[Policy, ...]]
) -> list[tuple[Policy, ...]]:
    """What it asks for after what it has asked for before, until it ends or the budget is spent."""
    seen = {policy for policies in asked for policy in policies}
    found: list[tuple[Policy, ...]] = []
    repetitions = 0
    while len(seen) < EVALUATIONS:
        np.random.seed(len(found))  # whatever else goes on in the process
        torch.manual_seed(len(found))
        policies = _checked(searcher.ask(), problem)
        if not policies:
            break
        found.append(policies)
        repetitions = 0 if set(policies) - seen else repetitions + 1
        if repetitions > MOST_REPETITIONS:
            raise ContractError(f"ask: {MOST_REPETITIONS} times in a row nothing new; give no policy to end the search")
        seen |= set(policies)
        searcher.tell([problem.evaluate(policy) for policy in policies])
    return found


def _checked(asked: object, problem: SearchProblem) -> tuple[Policy, ...]:
    if (fault := fault_of(asked, problem)) is not None or not isinstance(asked, Ask):
        raise ContractError(f"ask: {fault}")
    return asked.policies


def _resumed(make: MakeSearcher, stop: int, *, told: bool) -> list[tuple[Policy, ...]]:
    """What a searcher asks for that was given the state of one after `stop` asks, the last of them `told` or not. The
    one goes on before its state is saved, which must not change it."""
    problem = toy_problem()
    searcher = _made(make, problem)
    asked: list[tuple[Policy, ...]] = []
    for number in range(1, stop + 1):
        asked.append(_checked(searcher.ask(), problem))
        outcomes = [problem.evaluate(policy) for policy in asked[-1]]
        if number < stop or told:
            searcher.tell(outcomes)
    _check_kept(searcher)
    state = searcher.state()
    if not told:
        searcher.tell(outcomes)
    if (more := searcher.ask().policies) and len(set(more).union(*asked)) <= EVALUATIONS:
        searcher.tell([problem.evaluate(policy) for policy in more])
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder) / "state.safetensors", state)
        again = _made(make, problem)
        again.restore(load_state(Path(folder) / "state.safetensors"))
    if not told:
        again.tell(outcomes)
    return _played(again, problem, asked)


def _check_partial(make: MakeSearcher) -> None:
    """The last ask of a budget may be answered in part."""
    problem = toy_problem()
    searcher = _made(make, problem)
    policies = _checked(searcher.ask(), problem)
    try:
        searcher.tell([problem.evaluate(policies[0])])
        searcher.state()
        actor = searcher.trained()
    except Exception as error:
        raise ContractError(f"tell: with the first outcome of {len(policies)} it failed ({error!r})") from error
    if actor is not None:
        _check_actor(actor)


def _check_actor(actor: nn.Module) -> None:
    try:
        with torch.no_grad():
            actions = actor(torch.zeros(3, len(OBSERVATION_FIELDS)))
        right = actions.shape == (3, 1) and bool(torch.isfinite(actions).all())
    except Exception as error:
        raise ContractError(f"trained: cannot be asked about three observations ({error!r})") from error
    if not right:
        raise ContractError(f"trained: must give finite actions (3, 1) for 3 observations, gave {tuple(actions.shape)}")
