"""A search that starts from an earlier one, of any target: nothing that was measured is measured again."""

from collections.abc import Mapping

from autoprune.errors import ConfigError
from autoprune.foundation.paths import user_path
from autoprune.pruning.elastic import ElasticModel
from autoprune.search.problem import KNOWN_POLICIES
from autoprune.space.policy import PruningPolicy
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore


def check_start(trials_from: str | None) -> None:
    """Raises `ConfigError` if the run to start from is no folder with trials, `InputError` if those are broken."""
    if trials_from is None:
        return
    trials = RunDir(user_path(trials_from, field="search.trials_from")).trials
    if not trials.is_file():
        raise ConfigError(f"search.trials_from: {trials_from}: no folder of a run (trials.sqlite is missing)")
    TrialStore(trials)


def earlier_policies(
    trials_from: str | None, elastic: ElasticModel, store: TrialStore | None
) -> tuple[PruningPolicy, ...]:
    """The best policies of the run to start from, if there is one; all its trials are taken over into `store`.

    Raises `ConfigError` if that run searched no model with these groups.
    """
    if trials_from is None:
        return ()
    check_start(trials_from)
    earlier = TrialStore(RunDir(user_path(trials_from, field="search.trials_from")).trials)
    policies = tuple(PruningPolicy.of_key(key) for key in earlier.best_policies(KNOWN_POLICIES))
    channels = elastic.full_policy.as_dict()
    if not policies or not all(_fits(policy, channels) for policy in policies):
        raise ConfigError(f"search.trials_from: {trials_from}: holds no search of a model with these groups")
    if store is not None:
        store.take_over(earlier)
    return policies


def _fits(policy: PruningPolicy, channels: Mapping[str, int]) -> bool:
    kept = policy.as_dict()
    return kept.keys() == channels.keys() and all(kept[name] <= most for name, most in channels.items())
