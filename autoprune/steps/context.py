"""What every job works with: checked before any work, and set up here alone."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

from autoprune.compute.machine import check_machine
from autoprune.config import RunConfig
from autoprune.config.unused import Job, say_unused
from autoprune.errors import InputError
from autoprune.measure.energy_sensors import Sensor
from autoprune.measure.energy_source import find_energy_source
from autoprune.reports.tensorboard import RunLogger
from autoprune.search.executors import Execute, usual
from autoprune.search.prepare import PREPARED, Prepared, keep_setting, prepare
from autoprune.search.problem import SearchProblem
from autoprune.search.ray_cluster import Cluster
from autoprune.search.ray_workers import Make, on_ray
from autoprune.search.toy import WHOLE, toy_problem, toy_score
from autoprune.space.policy import PruningPolicy, save_policy
from autoprune.steps.amounts import check_amounts
from autoprune.steps.gate import check_runtime
from autoprune.steps.recipe import Recipe
from autoprune.steps.subject import Subject, load_subject
from autoprune.store.kept import Kept
from autoprune.store.run_dir import RunDir, opened
from autoprune.store.trials import TrialStore
from autoprune.studies.identity import take_measured


@dataclass(frozen=True)
class Checked:
    """What a job is about, read and checked."""

    subject: Subject
    sensor: Sensor | None  # None: energies are estimated


@dataclass(frozen=True)
class Workspace:
    """Where a job works, and how."""

    config: RunConfig
    run_dir: RunDir
    store: TrialStore
    logger: RunLogger
    cluster: Cluster | None = field(default=None, kw_only=True)  # scores candidates; None: this machine's processes

    def execute(self) -> Execute:
        """Who scores the candidates of a search."""
        return usual() if self.cluster is None else on_ray(self.cluster, self._make())

    def _make(self) -> Make:
        return partial(toy_problem, reward_config=self.config.search.reward)


@dataclass(frozen=True)
class Context(Workspace):
    """The same, with what the job is about and the problem that was made of it: all that a step needs."""

    subject: Subject
    sensor: Sensor | None  # None: energies are estimated
    prepared: Prepared

    def _make(self) -> Make:
        recipe = Recipe.of(self.config.at_ratio(1.0), self.subject, self.prepared)
        return replace(recipe, data=self.prepared.data).make  # other machines need not have them

    def save_policy(self, policy: PruningPolicy) -> None:
        original = self.prepared.elastic.full_policy.as_dict()
        save_policy(self.run_dir.policy, policy, model=self.config.model.name, original=original)


def checked(config: RunConfig, *, subject: Subject | None = None, needs_weights: str | None = None) -> Checked:
    """Model, data and machine, before any work; a `subject` that is given replaces those of the configuration.

    Raises `InputError` for whatever is missing or does not fit, also for an untrained model where one `needs_weights`,
    which says what for.
    """
    check_machine(config)
    sensor = find_energy_source(config)
    subject = subject or load_subject(config)
    if needs_weights is not None and not subject.is_trained:
        raise InputError(f"model.checkpoint: {needs_weights}; make one with `autoprune train`")
    check_amounts(config, subject)
    check_runtime(subject.model, subject.data, config)
    return Checked(subject, sensor)


@contextmanager
def workspace(
    config: RunConfig,
    run_dir: RunDir,
    job: Job,
    steps: Sequence[Kept[Any]] = PREPARED,
    *,
    cluster: Cluster | None = None,
) -> Iterator[Workspace]:
    """The run folder, held against other processes while the block runs, with its store and its log.

    What the configuration says that `job` has no use for is told first. Raises `InputError` for what one of its `steps`
    left there and cannot be as it is.
    """
    with opened(run_dir, config), RunLogger(run_dir.logs) as logger:
        say_unused(config, replace(job, on_ray=cluster is not None))
        store = TrialStore(run_dir.trials)
        store.check(steps)
        yield Workspace(config, run_dir, store, logger, cluster=cluster)


def context_of(place: Workspace, job: Checked, *, at: RunConfig | None = None) -> Context:
    """Read and time the trained model, and make the problem, under the limits of `at` (default: those of the
    configuration)."""
    subject = job.subject
    prepared = prepare(at or place.config, subject.model, subject.data, store=place.store, sensor=job.sensor)
    kept = place.config, place.run_dir, place.store, place.logger
    return Context(*kept, subject, job.sensor, prepared, cluster=place.cluster)


@contextmanager
def problem_of(
    config: RunConfig,
    run_dir: RunDir,
    kind: Job,
    *,
    steps: Sequence[Kept[Any]] = PREPARED,
    cluster: Cluster | None = None,
) -> Iterator[tuple[Workspace, SearchProblem, Context | None]]:
    """What a job that only searches works with: the configuration's model, or the toy problem, which has no context.
    Raises what `checked` does, before any work."""
    if config.problem == "toy":
        check_machine(config)
        with workspace(config, run_dir, kind, steps, cluster=cluster) as place:
            problem = toy_problem(place.store, config.search.reward)
            keep_setting(place.store, config, problem.original_cost, toy_score(WHOLE).main[1].value)
            yield place, problem, None
        return
    job = checked(config, needs_weights=f"`autoprune {kind.command}` needs a trained model")
    with workspace(config, run_dir, kind, steps, cluster=cluster) as place:
        if kind.command == "search":  # other jobs time files here in the end
            take_measured(config, place.store)
        context = context_of(place, job)
        yield context, context.prepared.problem, context
