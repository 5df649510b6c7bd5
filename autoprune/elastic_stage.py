"""The stage of a run before its search: elastic distillation near the target, if the configuration asks for it."""

from autoprune.config import RunConfig
from autoprune.elastic_training import train_elastic
from autoprune.policies.heuristics import varied_policies
from autoprune.prepare import Prepared, with_trained_cuts
from autoprune.run_dir import RunDir
from autoprune.seeding import derive_seed
from autoprune.tensorboard import RunLogger


def elastic_distilled(prepared: Prepared, config: RunConfig, run_dir: RunDir, logger: RunLogger) -> Prepared:
    """With `elastic.epochs`, the problem with its candidates scored by weights that are trained for being cut."""
    if config.elastic.epochs == 0:
        return prepared
    trained = train_elastic(
        prepared.elastic,
        prepared.data,
        varied_policies(prepared.problem, config.elastic.cuts, seed=config.seed),
        smallest=prepared.problem.floor_policy,
        evaluator=prepared.evaluator,
        config=config.elastic,
        distillation=config.finetune,
        learning_rate=config.finetune_learning_rate,
        seed=derive_seed(config.seed, "elastic"),
        state_path=run_dir.state / "elastic.pt",
        on_epoch=lambda log: logger.epoch("elastic", log),
    )
    return with_trained_cuts(prepared, trained, config)
