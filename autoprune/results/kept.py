"""What the steps of a run leave beside its trials that its pages show, too."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from autoprune.results.run import DropTrial, SearchFigures
from autoprune.store.kept import Count, Finite, Kept, closed
from autoprune.training.train import EpochLog


@closed
@dataclass(frozen=True)
class FinetuneFrame:
    """What fine-tuning begins from and is to come near to, on the search split; the epochs that it may take."""

    original: Finite
    before: Finite
    epochs: Count


SEARCH = Kept("search", TypeAdapter(SearchFigures))
VERDICT = Kept("verdict", TypeAdapter(DropTrial))  # of one trial for `target.max_drop`
FRAME = Kept("finetune_frame", TypeAdapter(FinetuneFrame))
FINETUNE = Kept("finetune_log", TypeAdapter(tuple[EpochLog, ...]))
