"""From a configuration, a trained model and data to the search problem: groups, ladders, costs, sensitivities."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from pydantic import ConfigDict, TypeAdapter, with_config
from torch import nn

from autoprune.compute.compute import this_compute
from autoprune.config import RunConfig, TargetConfig, check_bounds
from autoprune.data import SearchData, normalise
from autoprune.foundation.progress import bar
from autoprune.measure.device import environment
from autoprune.measure.energy_sensors import Sensor
from autoprune.prediction.energy import EnergyConstants, estimated_energy_mj
from autoprune.prediction.energy_model import ENERGY, energy_constants
from autoprune.prediction.latency_model import (
    LATENCY,
    MeasuredLatency,
    build_latency_model,
    latency_model_of,
    measured_latency,
)
from autoprune.prediction.latency_table import LatencyModel
from autoprune.pruning.cost import CutShapes, layer_shapes
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.pruning.groups import ModelGroups, PrunableGroup
from autoprune.pruning.importance import ranking_of, score_channels
from autoprune.runtimes.find import find_runtime
from autoprune.search.decisions import decision_of, layer_decision
from autoprune.search.earlier_run import earlier_policies
from autoprune.search.evaluate import Evaluator
from autoprune.search.executors import Execute, inline, usual
from autoprune.search.fingerprint import FINGERPRINT, fingerprint, scored_as
from autoprune.search.problem import Limit, PredictedCost, SearchProblem
from autoprune.search.racing import FIRST_LOOK
from autoprune.search.reward import make_reward
from autoprune.space.decision import Decision, Policy
from autoprune.space.layer_option import check_effects, find_option_kinds, layer_options
from autoprune.space.policy import PruningPolicy
from autoprune.store.kept import Finite, Kept, KeptPolicy, Milliseconds, closed
from autoprune.store.trials import TrialStore
from autoprune.tasks.judging import make_task
from autoprune.training.teacher import Teacher

RANKING_IMAGES = 512  # for the gradients of the Taylor criterion
LATENCY_HEADROOM = 0.015
SETTING_UP = "reading and timing the model"  # as a stage of a job


@closed
@dataclass(frozen=True)
class OriginalPoint:
    """Where the original stands among the candidates of a search."""

    predicted_latency_ms: Milliseconds
    metric: Finite


ORIGINAL = Kept("original", TypeAdapter(OriginalPoint))
ENVIRONMENT = Kept("environment", TypeAdapter(dict[str, str]))
PREPARED = (LATENCY, ENERGY, ORIGINAL, ENVIRONMENT, FINGERPRINT)  # what making the problem keeps


@with_config(ConfigDict(extra="forbid", arbitrary_types_allowed=True))  # tensors
@dataclass(frozen=True)
class Measured:
    """What was found out about a trained model on a device: with its weights and its configuration, a whole problem."""

    channel_scores: Mapping[str, torch.Tensor]  # importance, by group
    latency: MeasuredLatency
    energy: EnergyConstants
    decisions: tuple[Decision, ...]  # with their sensitivities
    known: tuple[KeptPolicy, ...]  # of an earlier run
    fingerprint: str


@dataclass(frozen=True)
class Prepared:
    """All that a search, and what follows it, needs."""

    data: SearchData
    elastic: ElasticModel
    model_groups: ModelGroups
    evaluator: Evaluator
    teacher: Teacher  # the original, for all trainings that follow
    latency: LatencyModel
    problem: SearchProblem
    measured: Measured


@dataclass(frozen=True)
class PredictCost:
    """What a cut is predicted to cost, from its shapes alone."""

    shapes: CutShapes
    latency: LatencyModel
    energy: EnergyConstants

    def __call__(self, policy: PruningPolicy) -> PredictedCost:
        cost = self.shapes.cost(policy)
        energy_mj = estimated_energy_mj(self.shapes.layers(policy).values(), self.energy)
        return PredictedCost(self.latency.predicted_latency_ms(policy), energy_mj, cost.macs, cost.params)


def prepare(
    config: RunConfig,
    model: nn.Module,
    data: SearchData,
    *,
    store: TrialStore | None = None,
    sensor: Sensor | None = None,
    measured: Measured | None = None,
) -> Prepared:
    """Build the problem. What is measured on the way is kept in `store`, so that a resumed run searches the same one.

    With a `sensor`, a run that works with energy fits its estimates to what the sensor counts. Nothing is found out
    anew of a model of which all is `measured`, here before or by another machine.
    Raises `ModelError` if nothing can be pruned, `TargetError` if the target lies below the floor, `ConfigError` if it
    has no bound.
    """
    check_bounds(config)
    task, compute, info = make_task(config.task), this_compute(own_kernels=config.own_kernels), data.info
    model.eval()
    model_groups = find_groups(model, info.input_shape)
    scored = measured.channel_scores if measured else channel_scores(config, model, data, model_groups.prunable)
    kinds = find_option_kinds(config.search.options)
    options = layer_options(model, kinds, layer_shapes(model, info.input_shape)) if kinds else ()
    check_effects(options, model, kinds)
    elastic = ElasticModel(model, model_groups.prunable, ranking_of(scored), options)
    shapes = CutShapes(elastic, info.input_shape)
    if measured:
        latency = latency_model_of(measured.latency, shapes, info, measure=config.measure, elsewhere=True)
        energy = measured.energy
    else:
        latency = build_latency_model(shapes, info, search=config.search, measure=config.measure, store=store)
        energy = energy_constants(config, shapes, info, latency.ladders, sensor=sensor, store=store)
    predict = PredictCost(shapes, latency, energy)
    original_cost = predict(elastic.full_policy)
    smallest = PruningPolicy.of({group.name: latency.ladders[group.name][0] for group in elastic.groups})
    evaluator = Evaluator(
        elastic,
        data,
        score_images=config.search.score_images,
        calibration_images=config.search.calibration_images,
        repairs=config.search.repair,
        task=task,
        compute=compute,
    )
    if store is not None:
        keep_setting(store, config, original_cost, evaluator.original_metric[1].value)
    problem = SearchProblem(
        (
            *(decision_of(group, scored[group.name], shapes, latency, elastic.full_policy) for group in elastic.groups),
            *(layer_decision(option, model, shapes, latency, elastic.full_policy) for option in options),
        ),
        search_limits(config.target, original_cost, floor=predict(smallest)),
        predict=predict,
        looks=evaluator.looks,
        reward=make_reward(config.search.reward),
        fingerprint=measured.fingerprint
        if measured
        else scored_as(fingerprint(config, elastic, evaluator.seen()), store, made_before=PREPARED),
        store=store,
        known=measured.known if measured else earlier_policies(config.search.trials_from, elastic, store),
    )
    if measured is None:
        decisions = measure_sensitivities(problem, usual())
        known = tuple(problem.pruning_of(policy) for policy in problem.known)
        measured = Measured(scored, measured_latency(latency), energy, decisions, known, problem.fingerprint)
    return Prepared(
        data=data,
        elastic=elastic,
        model_groups=model_groups,
        evaluator=evaluator,
        teacher=Teacher.of(model, data, config.finetune, task=task, compute=compute),
        latency=latency,
        problem=problem.knowing(measured.decisions),
        measured=measured,
    )


def keep_setting(store: TrialStore, config: RunConfig, original: PredictedCost, metric: float) -> None:
    """What the candidates of a search stand beside, and where they are judged; `metric` is the original's."""
    store.keep(ORIGINAL, OriginalPoint(original.predicted_latency_ms, metric))
    store.keep(ENVIRONMENT, environment(find_runtime(config.measure.runtime)))


def channel_scores(
    config: RunConfig, model: nn.Module, data: SearchData, groups: tuple[PrunableGroup, ...]
) -> dict[str, torch.Tensor]:
    """How much each channel of each group matters, as the configuration would have it judged."""
    step = max(1, len(data.train) // RANKING_IMAGES)
    shown = data.train.select(torch.arange(0, len(data.train), step)[:RANKING_IMAGES])
    return score_channels(
        model,
        groups,
        config.search.importance,
        images=normalise(shown.images, data.info),
        labels=shown.labels,
        task=make_task(config.task),
    )


def search_limits(
    targets: tuple[TargetConfig, ...], original: PredictedCost, *, floor: PredictedCost
) -> tuple[Limit, ...]:
    """The targets in absolute terms. Latency is searched a little below its target: predictions and measurements err,
    and candidates that miss it as measured are evaluations lost. A target between the two and the `floor` stands."""
    limits = []
    for target in targets:
        bound = target.bound(original.of(target.metric))
        if target.metric == "latency":
            bound = max(bound * (1 - LATENCY_HEADROOM), min(bound, floor.of("latency")))
        limits.append(Limit(target.metric, bound))
    return tuple(limits)


def measure_sensitivities(problem: SearchProblem, execute: Execute = inline) -> tuple[Decision, ...]:
    """The problem's decisions with the divergence from the original when each alone is at its middle option, or gone.

    As the first look tells it, which takes a quarter of the time of a whole evaluation. ResNet-20, Fashion-MNIST: the
    ranks of all 22 correlate by 0.93 with what whole evaluations find, and searches end no worse (at 0.4 of the latency
    -0.295, -0.276 and -0.295; from whole evaluations, the same first two seeds, -0.305 and -0.289).
    """
    full = problem.full_policy

    def alone(place: int, option: int) -> Policy:
        return (*full[:place], option, *full[place + 1 :])

    def loss(shared: SearchProblem, policy: Policy) -> float:
        return shared.evaluate(policy, bars=FIRST_LOOK).score.divergence

    found = []
    with bar("sensitivities", len(full)) as progress, execute(problem) as shared:
        for first in range(0, len(full), shared.workers):
            together = list(enumerate(problem.decisions))[first : first + shared.workers]
            gone = [alone(place, 0) for place, decision in together if decision.may_go]
            middles = [alone(place, decision.middle_option) for place, decision in together]
            shared.expect([*gone, *middles], bars=FIRST_LOOK)
            for place, decision in together:
                lost = loss(shared, alone(place, 0)) if decision.may_go else 0.0
                sensitivity = loss(shared, alone(place, decision.middle_option))
                found.append(replace(decision, sensitivity=sensitivity, branch_loss=lost))
                progress.advance()
    return tuple(found)
