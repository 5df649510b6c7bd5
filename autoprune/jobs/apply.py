"""`autoprune apply`: a run whose policy comes from a trained agent or from a file."""

from pathlib import Path

from autoprune.config import RunConfig, check_bounds
from autoprune.errors import InputError
from autoprune.policies.actor import load_actor
from autoprune.steps.applied import agent_choice, policy_choice
from autoprune.steps.choice import Choose


def applied_choice(config: RunConfig, *, agent: Path | None, policy: Path | None) -> Choose:
    """A choice without a search: the best of what an agent and the heuristics propose, or a stored policy as it is.

    For `autoprune apply demo --agent runs/demo/agent`: `jobs.run.run(config, run_dir, command="apply",
    choose=applied_choice(config, agent=Path("runs/demo/agent"), policy=None))`. Raises `InputError` unless exactly one
    readable source is given, and a target that needs no search.
    """
    check_bounds(config)
    if (agent is None) == (policy is None):
        raise InputError("give either --agent DIR or --policy FILE")
    if agent is not None:
        return agent_choice(load_actor(agent))
    assert policy is not None
    return policy_choice(config, policy)
