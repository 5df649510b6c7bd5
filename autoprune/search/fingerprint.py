"""What scores depend on, as a hash: those of one fingerprint can be compared, and are remembered under it."""

import hashlib
from collections.abc import Iterable
from typing import Any

from pydantic import TypeAdapter

from autoprune.config import CLASSIFICATION_NAME, RunConfig
from autoprune.errors import InputError
from autoprune.foundation.factories import source_of
from autoprune.foundation.progress import say
from autoprune.models import tensor_state
from autoprune.pruning.elastic import ElasticModel
from autoprune.store.kept import Kept
from autoprune.store.trials import TrialStore

FINGERPRINT = Kept("fingerprint", TypeAdapter(str))
WHAT = "the weights, the network, the data, or a file of task or search.options"


def scored_as(found: str, store: TrialStore | None, *, made_before: Iterable[Kept[Any]]) -> str:
    """The fingerprint that was found, once it is in `store`.

    Raises `InputError` if scores there have another, and steps other than those `made_before` were made of them: what
    goes on would be put together from two things.
    """
    if store is None:
        return found
    before = store.kept(FINGERPRINT)
    if before not in (None, found):
        if store.holds_more_than(made_before):
            raise InputError(
                f"{store.path.parent}: {WHAT} is another than when this run's search ended, and what was made of it "
                f"would not fit; put it back as it was, or start anew (search.trials_from={store.path.parent} begins "
                "with its best policies)"
            )
        say(f"{WHAT} has changed since the search began: candidates are scored anew")
    store.keep(FINGERPRINT, found)
    return found


def fingerprint(config: RunConfig, elastic: ElasticModel, seen: bytes) -> str:
    """A hash of all that a score depends on: weights, ranking of channels, settings, users' files, what an evaluator
    has `seen` of the data and the network."""
    digest = hashlib.sha256()
    for name, tensor in tensor_state(elastic.original).items():
        digest.update(name.encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    digest.update(repr(sorted(elastic.ranking.items())).encode())
    # Without statistics of their own, data are those of runs from before there were such keys.
    unset = {"mean", "std"} if config.data.mean is None else None
    digest.update(config.data.model_dump_json(exclude=unset).encode())
    if config.task != CLASSIFICATION_NAME:
        digest.update(config.task.encode())
    search = config.search
    digest.update("".join(search.options).encode())
    for own in (config.task, *search.options):
        digest.update(source_of(own))
    digest.update(f"{search.score_images} {search.calibration_images} {search.repair}".encode())
    digest.update(seen)
    return digest.hexdigest()[:16]
