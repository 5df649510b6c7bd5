"""A search that starts from an earlier one, of any target: nothing that was measured is measured again."""

import json

from autoprune.errors import ConfigError
from autoprune.paths import user_path
from autoprune.policy import PruningPolicy
from autoprune.pruning.elastic import ElasticModel
from autoprune.run_dir import RunDir
from autoprune.search.trials import TrialStore

KNOWN_POLICIES = 6


def check_start(start_from: str | None) -> None:
    """Raises `ConfigError` if the run to start from is no folder with trials."""
    if start_from is not None and not RunDir(user_path(start_from, field="search.start_from")).trials.is_file():
        raise ConfigError(f"search.start_from: {start_from}: no folder of a run (trials.sqlite is missing)")


def earlier_policies(
    start_from: str | None, elastic: ElasticModel, store: TrialStore | None
) -> tuple[PruningPolicy, ...]:
    """The best policies of the run to start from, if there is one; all its trials are taken over into `store`.

    Raises `ConfigError` if that run searched no model with these groups.
    """
    if start_from is None:
        return ()
    check_start(start_from)
    earlier = TrialStore(RunDir(user_path(start_from, field="search.start_from")).trials)
    policies = tuple(PruningPolicy.of(json.loads(key)) for key in earlier.best_policies(KNOWN_POLICIES))
    names = {group.name for group in elastic.groups}
    if not policies or any(policy.as_dict().keys() != names for policy in policies):
        raise ConfigError(f"search.start_from: {start_from}: holds no search of a model with these groups")
    if store is not None:
        store.take_over(earlier)
    return policies
