"""What the smaller commands do; the whole job is in `pipeline`."""

from dataclasses import dataclass
from pathlib import Path

from autoprune.compute.compute import this_compute
from autoprune.compute.machine import check_machine
from autoprune.config import RunConfig, check_bounds
from autoprune.foundation.errors import InputError
from autoprune.foundation.files import require_free_space
from autoprune.foundation.paths import require_writable_file
from autoprune.foundation.seeding import derive_seed, seed_everything
from autoprune.measure.energy_source import find_energy_source
from autoprune.models import save_weights
from autoprune.policies.actor import load_actor
from autoprune.search.prepare import prepare
from autoprune.search.problem import Outcome
from autoprune.search.toy import toy_problem
from autoprune.space.policy import save_policy
from autoprune.steps.amounts import check_amounts
from autoprune.steps.applied import agent_decision, policy_decision
from autoprune.steps.decision import Decide, check_search, search_only
from autoprune.steps.subject import load_subject
from autoprune.steps.tensorboard import RunLogger
from autoprune.store.run_dir import check_run_dir, opened
from autoprune.store.trials import TrialStore
from autoprune.training.scores import Judge
from autoprune.training.train import train_baseline


@dataclass(frozen=True)
class TrainedBaseline:
    search_accuracy: float
    test_accuracy: float
    epochs: int


def search(config: RunConfig, root: Path, *, resume: bool) -> Outcome:
    """Search alone; writes `policy.json` and, for a learner, `agent/`. Returns the best outcome."""
    check_bounds(config)
    run_dir = check_run_dir(root, config, resume=resume)
    check_machine(config)
    check_search(config)
    sensor = find_energy_source(config) if config.problem == "model" else None
    subject = load_subject(config) if config.problem == "model" else None
    if subject is not None and not subject.is_trained:
        raise InputError("model.checkpoint: a search needs a trained model; make one with `autoprune train`")
    if subject is not None:
        check_amounts(config, subject)
    with opened(run_dir, config), RunLogger(run_dir.logs) as logger:
        store = TrialStore(run_dir.trials)
        if subject is None:
            problem = toy_problem(store, config.search.reward)
        else:
            problem = prepare(config, subject.model, subject.data, store=store, sensor=sensor).problem
        seed_everything(derive_seed(config.seed, "search"))
        best = search_only(problem, config, run_dir, logger).best
        model = config.model.name if subject is not None else config.problem
        save_policy(run_dir.policy, best.policy, model=model, original=problem.full_policy.as_dict())
    return best


def applied_decision(config: RunConfig, *, agent: Path | None, policy: Path | None) -> Decide:
    """A decision without a search: the best of what an agent and the heuristics propose, or a stored policy as it is.

    For `autoprune apply demo --agent runs/demo/agent`: `pipeline.run(config, run_dir, decide=applied_decision(config,
    agent=Path("runs/demo/agent"), policy=None))`. Raises `InputError` unless exactly one readable source is given, and
    a target that needs no search.
    """
    check_bounds(config)
    if (agent is None) == (policy is None):
        raise InputError("give either --agent DIR or --policy FILE")
    if agent is not None:
        return agent_decision(config, load_actor(agent))
    assert policy is not None
    return policy_decision(config, policy)


def train(config: RunConfig, out: Path, *, resume: bool) -> TrainedBaseline:
    """Train the configured model from scratch and write its weights to `out`."""
    require_writable_file(out, field="--out")
    state_path = out.with_suffix(".state.pt")
    if out.exists():
        raise InputError(f"{out}: exists already; delete it or choose another --out")
    if state_path.exists() and not resume:
        raise InputError(f"{state_path}: a training was stopped here; go on with --resume or delete the file")
    require_free_space(out.parent)
    check_machine(config)
    subject = load_subject(config)
    check_amounts(config, subject)
    model = train_baseline(
        subject.model,
        subject.data,
        config.train,
        seed=config.seed,
        task=subject.task,
        compute=this_compute(own_kernels=config.own_kernels),
        state_path=state_path,
    )
    info = subject.data.info
    on_search, on_test = (Judge(split, info, subject.task)(model) for split in (subject.data.search, subject.test))
    trained = TrainedBaseline(on_search, on_test, config.train.epochs)
    metadata = {
        "model": config.model.name,
        "data": config.data.name,
        "search_accuracy": f"{trained.search_accuracy:.4f}",
        "test_accuracy": f"{trained.test_accuracy:.4f}",
        "config": config.model_dump_json(),
    }
    save_weights(model, out, metadata)
    state_path.unlink(missing_ok=True)
    return trained
