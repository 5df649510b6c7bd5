"""What the steps of a run leave beside its trials that its pages show, too."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from autoprune.results.run import DropTrial, SearchFigures
from autoprune.store.kept import Count, Finite, Kept, PolicyKey, closed
from autoprune.training.train import EpochLog


@closed
@dataclass(frozen=True)
class FinetuneFrame:
    """What fine-tuning begins from and is to come near to, on the search split; the epochs that it may take."""

    original: Finite
    before: Finite
    epochs: Count


@closed
@dataclass(frozen=True)
class FinishedTrial:
    """A trial that one of NNI's tuners proposed, scored."""

    episode: Count  # its number, from 1
    policy: PolicyKey  # what was scored
    look: Count  # how closely
    was_clipped: bool  # whether the tuner had proposed a wider one, that misses the target
    was_stopped: bool  # whether an assessor ended it


@closed
@dataclass(frozen=True)
class LeftTrial:
    """A trial of such a tuner that somebody ended after a look: an assessor, perhaps."""

    policy: PolicyKey
    look: Count
    was_clipped: bool


SEARCH = Kept("search", TypeAdapter(SearchFigures))
VERDICT = Kept("verdict", TypeAdapter(DropTrial))  # of one trial for `target.max_drop`
FRAME = Kept("finetune_frame", TypeAdapter(FinetuneFrame))
FINETUNE = Kept("finetune_log", TypeAdapter(tuple[EpochLog, ...]))
NNI_TRIALS = Kept("nni_trials", TypeAdapter(dict[str, FinishedTrial]))  # by NNI's name
NNI_LEFT = Kept("nni_left", TypeAdapter(dict[str, LeftTrial]))
