"""The stage of a run before its search: elastic distillation near the target, if the configuration asks for it."""

from collections.abc import Sequence

from autoprune.config import RunConfig
from autoprune.policies.heuristics import varied_policies
from autoprune.prepare import Prepared, with_trained_cuts
from autoprune.run_dir import RunDir
from autoprune.search.problem import SearchProblem
from autoprune.seeding import derive_seed
from autoprune.stages.elastic_training import train_elastic
from autoprune.stages.tensorboard import RunLogger


def elastic_distilled(
    prepared: Prepared, config: RunConfig, run_dir: RunDir, logger: RunLogger, *, near: Sequence[SearchProblem] = ()
) -> Prepared:
    """With `elastic.epochs`, the problem with its candidates scored by weights that are trained for being cut.

    The cuts that are trained are close under the limits of `near`, as many of each; by default under the problem's own.
    """
    if config.elastic.epochs == 0:
        return prepared
    problems = near or (prepared.problem,)
    cuts = -(-config.elastic.cuts // len(problems))
    policies = [policy for problem in problems for policy in varied_policies(problem, cuts, seed=config.seed)]
    trained = train_elastic(
        prepared.elastic,
        prepared.data,
        policies,
        smallest=prepared.problem.floor_policy,
        teacher=prepared.teacher,
        evaluator=prepared.evaluator,
        config=config.elastic,
        distillation=config.finetune,
        learning_rate=config.elastic_learning_rate,
        seed=derive_seed(config.seed, "elastic"),
        state_path=run_dir.state / "elastic.pt",
        on_epoch=lambda log: logger.epoch("elastic", log),
    )
    return with_trained_cuts(prepared, trained, config)
