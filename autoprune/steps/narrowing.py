"""What is done about a fine-tuned model whose file misses its latency target in the last measurement: a little more is
cut, fine-tuned for a moment, and measured again.

A candidate is chosen by its cut's file, minutes or hours before; the machine, or its neighbours, may be others by now.
"""

import statistics
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from pydantic import TypeAdapter
from torch import nn

from autoprune.config import RunConfig
from autoprune.export.onnx_file import export_onnx
from autoprune.foundation.progress import bar, say
from autoprune.measure.latency import Latency
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.structure import STRUCTURE_FILE, load_pruned, save_pruned
from autoprune.search.prepare import Prepared
from autoprune.search.problem import SearchProblem
from autoprune.space.policy import PruningPolicy
from autoprune.steps.context import Context
from autoprune.steps.finetune import repaired_cut, training_of
from autoprune.steps.met import HEADROOM, latency_targets, median_share, timed_images, timed_together
from autoprune.store.kept import Kept, KeptPolicy, closed
from autoprune.store.run_dir import RunDir

MOST_NARROWINGS = 3
MEASUREMENTS = 3  # of a file that misses its target: the middle one counts
EPOCHS_PART = 8  # a narrowed model gets this part of the epochs, and of their time, once more


@closed
@dataclass(frozen=True)
class Narrowing:
    policy: KeptPolicy
    text: str


@closed
@dataclass(frozen=True)
class Narrowings:
    """What was cut after the fine-tuning, and whether that is all there will be."""

    steps: tuple[Narrowing, ...]
    settled: bool


NARROWED = Kept("narrowed", TypeAdapter(Narrowings))


@dataclass(frozen=True)
class Measured:
    """A fine-tuned model, and the latency of the original's file and its own, which are in `export/`."""

    policy: PruningPolicy
    model: nn.Module
    original: Latency
    pruned: Latency
    flushed_subnormals: int
    narrowed: tuple[str, ...] = ()  # what was cut after the fine-tuning, in words


def measured_within_target(context: Context, policy: PruningPolicy, model: nn.Module, *, may_narrow: bool) -> Measured:
    """Export and time `model`, fine-tuned at `policy`; while it misses its latency target, narrow it, if that may be.

    A file that misses is timed three times, and the middle one counts. What is narrowed is on disk before it is
    measured, and replaces the run's policy and pruned model in the end. Then it is settled: a run that goes on later,
    when what follows has been made of that model, narrows no further.
    """
    config, subject, prepared = context.config, context.subject, context.prepared
    run_dir, store = context.run_dir, context.store
    before = store.kept(NARROWED) or Narrowings((), settled=False)
    done = before.steps
    if done:
        policy = done[-1].policy
        model = load_pruned(_folder(run_dir, len(done)), architecture=subject.model)
    while True:
        said = tuple(step.text for step in done)
        found = _measured(context, policy, model, said)
        share = _share(found, config)
        if share <= 1 or before.settled or not may_narrow or len(done) == MOST_NARROWINGS:
            break
        tuned = prepared.elastic.narrow(policy).with_weights_of(model)
        narrower = narrower_policy(prepared, tuned, policy, share=share, repairs=config.search.repair)
        if narrower is None:
            break
        text = f"{_difference(policy, narrower)}, as the file took {share:.3f} of the latency that is allowed"
        say(f"after fine-tuning, narrower: {text}")
        model = _narrowed(context, tuned, narrower)
        policy = narrower
        done = (*done, Narrowing(policy, text))
        save_pruned(_folder(run_dir, len(done)), model, subject.spec)
        store.keep(NARROWED, Narrowings(done, settled=False))
    if done:
        (run_dir.pruned / STRUCTURE_FILE).unlink(missing_ok=True)  # no structure beside the weights of another
        save_pruned(run_dir.pruned, model, subject.spec)
        context.save_policy(policy)
    store.keep(NARROWED, Narrowings(done, settled=True))
    return found


def narrower_policy(
    prepared: Prepared, tuned: ElasticModel, policy: PruningPolicy, *, share: float, repairs: bool
) -> PruningPolicy | None:
    """The cut of `tuned`, at `policy`, that is enough for a file that takes `share` of the allowed latency, and comes
    nearest to the original before it is trained; None if the floor is not enough.

    Groups go down one rung; if none alone is enough, the one that saves most for what it loses goes first.
    """
    problem = prepared.problem
    allowed_ms = problem.cost_of(policy).predicted_latency_ms * (1 - HEADROOM) / share

    def loss(candidate: PruningPolicy) -> float:
        cut = repaired_cut(tuned, candidate, prepared, repairs=repairs)
        return prepared.evaluator.score_model(cut.original).divergence

    def latency_ms(candidate: PruningPolicy) -> float:
        return problem.cost_of(candidate).predicted_latency_ms

    loss_now = loss(policy)
    while True:
        now_ms = latency_ms(policy)
        lower = [candidate for candidate in one_rung_lower(problem, policy) if latency_ms(candidate) < now_ms]
        if not lower:
            return None
        enough = [candidate for candidate in lower if latency_ms(candidate) <= allowed_ms]
        scores = {}
        with bar("narrower cuts", len(enough or lower)) as progress:
            for candidate in enough or lower:
                scores[candidate] = loss(candidate)
                progress.advance()
        if enough:
            return min(enough, key=lambda candidate: scores[candidate])
        policy = min(lower, key=lambda candidate: (scores[candidate] - loss_now) / (now_ms - latency_ms(candidate)))
        loss_now = scores[policy]


def one_rung_lower(problem: SearchProblem, policy: PruningPolicy) -> Iterator[PruningPolicy]:
    """`policy` with each of its groups in turn at the next rung of its ladder below."""
    channels = policy.as_dict()
    for decision in problem.decisions:
        below = [width for width in decision.ladder if width < channels[decision.name]]
        if below:
            yield PruningPolicy.of({**channels, decision.name: below[-1]})


def _measured(context: Context, policy: PruningPolicy, model: nn.Module, narrowed: tuple[str, ...]) -> Measured:
    config, run_dir, info = context.config, context.run_dir, context.subject.data.info
    export_onnx(context.prepared.elastic.original, run_dir.original_onnx, info)
    flushed = export_onnx(model, run_dir.model_onnx, info)
    found: list[Measured] = []
    while len(found) < MEASUREMENTS:
        original, pruned = _timed(context)
        found.append(Measured(policy, model, original, pruned, flushed, narrowed))
        if len(found) == 1 and _share(found[0], config) <= 1:
            return found[0]
    middle = statistics.median_low(_share(one, config) for one in found)
    return next(one for one in found if _share(one, config) == middle)


def _timed(context: Context) -> list[Latency]:
    measure, data, run_dir = context.config.measure, context.subject.data, context.run_dir
    images = timed_images(data.search, data.info, measure)
    return timed_together([run_dir.original_onnx, run_dir.model_onnx], images, measure)


def _share(found: Measured, config: RunConfig) -> float:
    targets = latency_targets(config.target)
    return median_share(found.pruned, found.original, targets) if targets else 0.0


def _narrowed(context: Context, tuned: ElasticModel, policy: PruningPolicy) -> nn.Module:
    config = context.config
    cut = repaired_cut(tuned, policy, context.prepared, repairs=config.search.repair).original
    epochs = -(-config.finetune.epochs // EPOCHS_PART)
    if epochs == 0:
        return cut
    rate = config.finetune_learning_rate * (epochs / config.finetune.epochs) ** 0.5
    short = config.model_copy(update={"finetune": config.finetune.model_copy(update={"learning_rate": rate})})
    at_rate = replace(context, config=short)
    return training_of(at_rate, cut, policy, name="narrowed", epochs=epochs, description="narrower, fine-tuning")


def _difference(wide: PruningPolicy, narrow: PruningPolicy) -> str:
    before = wide.as_dict()
    return ", ".join(f"{name} {before[name]} -> {kept}" for name, kept in narrow.channels if kept != before[name])


def _folder(run_dir: RunDir, number: int) -> Path:
    return run_dir.state / f"narrowed-{number}"
