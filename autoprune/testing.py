"""Contracts as tests: whoever writes an implementation of a seam runs these on theirs, in a test of their own.

Each raises `ContractError`, which names what is asked for and what was found instead.
"""

import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from autoprune.envs.observation import OBSERVATION_FIELDS
from autoprune.foundation.errors import InputError
from autoprune.search.problem import Outcome, SearchProblem
from autoprune.search.searcher import (
    Ask,
    Brief,
    MakeSearcher,
    Searcher,
    SearcherState,
    fault_of,
    load_state,
    save_state,
)
from autoprune.search.toy import toy_problem
from autoprune.space.policy import PruningPolicy
from autoprune.tasks.judging import checked_metrics, merits_of, targets_of
from autoprune.tasks.judging import fault_of as fault_of_task
from autoprune.tasks.task import Task

EVALUATIONS = 40  # of the toy's 625 policies
MOST_REPETITIONS = 20  # asks without a policy that is new, while there are others


class ContractError(AssertionError):
    """An implementation does not do what its seam asks for."""


def check_searcher(make: MakeSearcher) -> None:
    """A searcher proposes policies of its problem, comes to an end or to new ones, does the same for the same seed
    whatever else goes on, and goes on from its state, saved and loaded, as if it had not been stopped.

    It is tried on the toy problem (`autoprune.search.toy`), a few seconds long.
    """
    whole = _course(make, EVALUATIONS)
    if not whole:
        raise ContractError("ask: gave no policy at all")
    if _course(make, EVALUATIONS) != whole:
        raise ContractError("seed: the same brief gave other policies the second time; all chance must come from it")
    for stop in sorted({1, max(1, len(whole) // 2)}):
        for told in (True, False):
            rest = _resumed(make, stop, EVALUATIONS, told=told)
            if rest != whole[stop:]:
                when = f"after {stop} asks" if told else f"between ask {stop} and tell"
                raise ContractError(
                    f"state: given to a new searcher {when}, it asked for {rest[:1]}, not for {whole[stop:][:1]}"
                )
    _check_partial(make)


def _made(make: MakeSearcher, problem: SearchProblem, evaluations: int) -> Searcher:
    searcher = make(Brief(problem, seed=0, max_evaluations=evaluations))
    if not isinstance(searcher.name, str) or not searcher.name:
        raise ContractError(f"name: must be a text, got {searcher.name!r}")
    return searcher


def _course(make: MakeSearcher, evaluations: int) -> list[tuple[PruningPolicy, ...]]:
    problem = toy_problem()
    return _played(_made(make, problem, evaluations), problem, evaluations, [])


def _played(
    searcher: Searcher, problem: SearchProblem, evaluations: int, asked: Sequence[tuple[PruningPolicy, ...]]
) -> list[tuple[PruningPolicy, ...]]:
    """What it asks for after what it has asked for before, until it ends or the budget is spent."""
    seen = {policy for policies in asked for policy in policies}
    found: list[tuple[PruningPolicy, ...]] = []
    repetitions = 0
    while len(seen) < evaluations:
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


def _checked(asked: object, problem: SearchProblem) -> tuple[PruningPolicy, ...]:
    if (fault := fault_of(asked, problem)) is not None or not isinstance(asked, Ask):
        raise ContractError(f"ask: {fault}")
    return asked.policies


def _resumed(make: MakeSearcher, stop: int, evaluations: int, *, told: bool) -> list[tuple[PruningPolicy, ...]]:
    """What a searcher asks for that was given the state of one after `stop` asks, the last of them `told` or not. The
    one goes on before its state is saved, which must not change it."""
    problem = toy_problem()
    searcher = _made(make, problem, evaluations)
    asked: list[tuple[PruningPolicy, ...]] = []
    for number in range(1, stop + 1):
        asked.append(_checked(searcher.ask(), problem))
        outcomes = [problem.evaluate(policy) for policy in asked[-1]]
        if number < stop or told:
            searcher.tell(outcomes)
    state = searcher.state()
    if not told:
        searcher.tell(outcomes)
    if (more := searcher.ask().policies) and len(set(more).union(*asked)) <= evaluations:
        searcher.tell([problem.evaluate(policy) for policy in more])
    if not isinstance(state, SearcherState):
        raise ContractError(f"state: must give a SearcherState, got {type(state).__name__}")
    try:
        json.dumps(state.facts)
    except (TypeError, ValueError) as error:
        raise ContractError(f"state: its facts are no JSON ({error})") from None
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder) / "state.safetensors", state)
        again = _made(make, problem, evaluations)
        again.restore(load_state(Path(folder) / "state.safetensors"))
    if not told:
        again.tell(outcomes)
    return _played(again, problem, evaluations, asked)


def _check_partial(make: MakeSearcher) -> None:
    """The last ask of a budget may be answered in part."""
    problem = toy_problem()
    searcher = _made(make, problem, EVALUATIONS)
    policies = _checked(searcher.ask(), problem)
    told: list[Outcome] = [problem.evaluate(policies[0])]
    try:
        searcher.tell(told)
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


EXAMPLES, CLASSES = 24, 5
NEAR = 1e-4  # what rounding may change


def check_task(make: Callable[[], Task], *, outputs: Tensor | None = None, labels: Tensor | None = None) -> None:
    """A task's divergence is 0 for the same outputs and never below; its losses are finite, can be differentiated and
    are lower for better outputs, whose metrics are no worse; each example is judged by itself, and nothing is kept.

    It is tried on `outputs` (N, ...) that are good ones for `labels` (N,), no two neighbours alike: without them, on
    logits of five classes.
    """
    task = make()
    if (fault := fault_of_task(task)) is not None:
        raise ContractError(fault)
    is_own = outputs is not None
    if outputs is None or labels is None:
        labels = torch.arange(EXAMPLES) % CLASSES
        noise = torch.randn(EXAMPLES, CLASSES, generator=torch.Generator().manual_seed(0))
        outputs, is_own = noise + 4.0 * F.one_hot(labels, CLASSES), False
    before = outputs.clone()
    first = _judged(task, outputs, labels)
    _check_divergence(task, outputs)
    _check_losses(task, outputs, labels)
    if task.needs_labels and not is_own:
        _check_mixed(task, outputs, labels)
    _check_direction(task, outputs, labels)
    if not outputs.equal(before):
        raise ContractError("outputs: were changed in place")
    for other, when in ((task, "the second time"), (make(), "made anew")):
        for name, values in _judged(other, outputs, labels).items():
            if not torch.equal(values, first[name]):
                raise ContractError(f"{name}: {when} it gave other values; a task keeps nothing between calls")
    _check_examples_alone(task, outputs, labels, first)


def _judged(task: Task, outputs: Tensor, labels: Tensor) -> dict[str, Tensor]:
    """All that a task says of each example: of outputs that are a little off those of the original, (N, ...)."""
    off = outputs + 0.3 * outputs.roll(1, 0)
    try:
        metrics = checked_metrics(task, off, targets_of(task, labels, outputs))
    except InputError as error:
        raise ContractError(str(error)) from None
    found = {"divergence": task.divergence(off, outputs)} | {name: metric.values for name, metric in metrics.items()}
    if (shape := tuple(found["divergence"].shape)) != (len(outputs),):
        raise ContractError(f"divergence: must give ({len(outputs)},), one value for each example, gave {shape}")
    for name, values in found.items():
        is_loss = name == "divergence" or not metrics[name].higher_is_better
        if not torch.isfinite(values.double()).all():
            raise ContractError(f"{name}: is not finite")
        if is_loss and bool((values.double() < -NEAR).any()):
            raise ContractError(f"{name}: lower is better, so that it is a loss; {values.min():.3g} is below 0")
    return found


def _check_divergence(task: Task, outputs: Tensor) -> None:
    same, other = task.divergence(outputs, outputs), task.divergence(outputs.roll(1, 0), outputs)
    if same.abs().max() > NEAR:
        raise ContractError(f"divergence: must be 0 for the same outputs, was up to {same.abs().max():.3g}")
    if other.min() < -NEAR or other.mean() <= same.mean() + NEAR:
        raise ContractError(
            f"divergence: must be above 0 for other outputs, and nowhere below; had a mean of {other.mean():.3g} and a "
            f"least value of {other.min():.3g}"
        )


def _check_losses(task: Task, outputs: Tensor, labels: Tensor) -> None:
    """Each is lower for good outputs than for those of the neighbours, and a small step down its gradient lowers it."""
    targets = targets_of(task, labels, outputs)
    losses: dict[str, Callable[[Tensor], Tensor]] = {
        "loss": lambda given: task.loss(given, targets, smoothing=0.0),
        "loss with smoothing": lambda given: task.loss(given, targets, smoothing=0.1),
        "distillation": lambda given: task.distillation(given, outputs, temperature=1.0),
        "distillation at a temperature of 4": lambda given: task.distillation(given, outputs, temperature=4.0),
    }
    for name, loss in losses.items():
        poor = outputs.roll(1, 0).requires_grad_(True)
        value = loss(poor)
        if value.shape != () or not torch.isfinite(value):
            raise ContractError(f"{name}: must be a finite scalar, gave {value.detach()}")
        if not value.requires_grad:
            raise ContractError(f"{name}: has no gradient")
        (gradient,) = torch.autograd.grad(value, poor)
        if not torch.isfinite(gradient).all() or not gradient.any():
            raise ContractError(f"{name}: its gradient at poor outputs is 0 or not finite")
        lower = loss(poor.detach() - 0.01 * gradient / gradient.norm())
        if not (lower < value and loss(outputs) < value):
            raise ContractError(
                f"{name}: must be lower for better outputs; {value:.4g} for poor ones, {lower:.4g} a step down its "
                f"gradient, {loss(outputs):.4g} for good ones"
            )
        shuffled = torch.randperm(len(outputs), generator=torch.Generator().manual_seed(1))
        if name == "loss" and not torch.isclose(
            task.loss(outputs[shuffled], targets[shuffled], smoothing=0.0), loss(outputs), rtol=NEAR, atol=NEAR
        ):
            raise ContractError("loss: must not depend on the order of the examples")


def _check_direction(task: Task, outputs: Tensor, labels: Tensor) -> None:
    targets = targets_of(task, labels, outputs)
    good, poor = (checked_metrics(task, given, targets) for given in (outputs, outputs.roll(1, 0)))
    for place, (name, metric) in enumerate(good.items()):
        better, worse = (merits_of(one).double().mean().item() for one in (metric, poor[name]))
        if better < worse or (place == 0 and better == worse):
            way = "higher" if metric.higher_is_better else "lower"
            raise ContractError(
                f"{name}: says {way} is better, and poor outputs do not do worse ({worse:.3g}, {better:.3g})"
            )


def _check_examples_alone(task: Task, outputs: Tensor, labels: Tensor, whole: dict[str, Tensor]) -> None:
    """Each example's values are the same in another order, and without the others."""
    off, count = outputs + 0.3 * outputs.roll(1, 0), len(outputs)
    shuffled = torch.randperm(count, generator=torch.Generator().manual_seed(1))
    for places in (shuffled, torch.arange(count // 2)):
        original = outputs[places]
        metrics = checked_metrics(task, off[places], targets_of(task, labels[places], original))
        found = {"divergence": task.divergence(off[places], original)}
        for name, values in (found | {name: metric.values for name, metric in metrics.items()}).items():
            if not torch.allclose(values.double(), whole[name][places].double(), rtol=NEAR, atol=NEAR):
                raise ContractError(f"{name}: an example's value must not depend on the others, or on their order")


def _check_mixed(task: Task, outputs: Tensor, labels: Tensor) -> None:
    """Labels of mixed images are shares of the classes."""
    try:
        mixed = task.loss(outputs, F.one_hot(labels, CLASSES).float(), smoothing=0.0)
    except Exception as error:
        raise ContractError(f"loss: fails for labels of mixed images, shares of the classes ({error!r})") from error
    if not torch.isclose(mixed, task.loss(outputs, labels, smoothing=0.0), rtol=NEAR, atol=NEAR):
        raise ContractError("loss: must be the same for labels and for shares that are all of one class")
