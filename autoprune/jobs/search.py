"""`autoprune search`: a search alone."""

from functools import partial
from pathlib import Path

from autoprune.config import RunConfig, check_bounds
from autoprune.config.unused import Job
from autoprune.foundation.seeding import derive_seed, seed_everything
from autoprune.search.problem import Outcome
from autoprune.search.ray_cluster import Cluster, check_cluster
from autoprune.steps.choice import check_search, save_best, search_only
from autoprune.steps.context import problem_of
from autoprune.steps.recipe import check_importable
from autoprune.store.run_dir import check_run_dir


def search(config: RunConfig, root: Path, *, resume: bool, cluster: Cluster | None = None) -> Outcome:
    """Search alone; writes `policy.json` and, for a learner, `agent/`. Returns the best outcome."""
    check_bounds(config)
    run_dir = check_run_dir(root, config, resume=resume)
    check_search(config)
    if cluster is not None:
        check_cluster(cluster, partial(check_importable, config))
    with problem_of(config, run_dir, Job("search"), cluster=cluster) as (place, problem, _):
        seed_everything(derive_seed(config.seed, "search"))
        best = search_only(problem, place).best
        save_best(problem, best, place)
    return best
