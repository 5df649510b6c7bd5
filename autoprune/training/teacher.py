"""The model that teaches a fine-tuning, and what it has answered already."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn

from autoprune.compute.compute import HERE, Compute
from autoprune.config import AugmentConfig, FinetuneConfig
from autoprune.data import SearchData
from autoprune.tasks.classification import CLASSIFICATION
from autoprune.tasks.task import Task
from autoprune.training.batches import Batch, Origin, epoch_draws
from autoprune.training.onnx_answers import OnnxAnswers

REMEMBERED_BYTES = 1e9  # of answers, at most

# Normalised images (N, C, H, W) to logits (N, classes), float32.
Answers = Callable[[Tensor], Tensor]


class Teacher:
    """A model, in evaluation mode, and what it has answered.

    Where images take `forms` that come back, each is asked about once: a fine-tuning of 64 epochs draws 36 of the 50
    forms that a crop by two pixels and a flip can give, so that it is asked 44% less; another one over the same images
    hardly at all. Elsewhere a batch is asked about once: networks that are fine-tuned with the same seed, to be
    compared, see the same ones.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        images: int,
        classes: int,
        forms: int | None,
        answers: Answers | None = None,
        task: Task = CLASSIFICATION,
        compute: Compute = HERE,
    ) -> None:
        """`answers` are the model's, where something gives them faster than it does itself."""
        model.eval()
        self.model, self.task, self.compute = model, task, compute
        self._answers = self._computed if answers is None else answers
        most = int(REMEMBERED_BYTES) // (4 * classes) if classes else 0
        self._forms = forms if forms is not None and images * forms <= most else None
        self._rows = most if self._forms is None else images * self._forms
        # Of which those that are `_known` are filled; both are made for the first of them.
        self._logits, self._known = torch.empty(0, classes), torch.empty(0, dtype=torch.bool)
        self._first_rows: dict[Origin, int] = {}  # without forms: where the answers to each batch begin
        self._used_rows = 0
        self._asks_anew = False

    @classmethod
    def of(
        cls,
        model: nn.Module,
        data: SearchData,
        config: FinetuneConfig,
        *,
        task: Task = CLASSIFICATION,
        compute: Compute = HERE,
    ) -> "Teacher":
        """For trainings on the train split with the augmentation of `config`."""
        forms = config.augment.forms
        answers = None if compute.fast_bf16 else OnnxAnswers(model, data.info)
        return cls(
            model,
            images=len(data.train),
            classes=data.info.num_classes,
            forms=forms,
            answers=answers,
            task=task,
            compute=compute,
        )

    def __call__(self, batch: Batch) -> Tensor:
        """The logits (N, classes), float32."""
        rows = self._rows_of(batch)
        if rows is None:
            return self._answers(batch.images)
        self._make_room()
        unknown = torch.ones_like(rows, dtype=torch.bool) if self._asks_anew else ~self._known[rows]
        if unknown.any():
            asked = batch.images[unknown].contiguous(memory_format=torch.channels_last)
            self._logits[rows[unknown]] = self._answers(asked)
            self._known[rows] = True
        return self._logits[rows]

    def _rows_of(self, batch: Batch) -> Tensor | None:
        """Where answers to the images of a batch are kept, (N,); None: nowhere."""
        origin, size = batch.origin, len(batch.images)
        if self._forms is not None and batch.forms is not None:
            assert origin is None or origin.augmentation.forms == self._forms, "forms of another augmentation"
            return batch.indices * self._forms + batch.forms
        if self._forms is not None or origin is None:
            return None
        if origin not in self._first_rows:
            if self._used_rows + size > self._rows:
                return None
            self._first_rows[origin] = self._used_rows
            self._used_rows += size
        return self._first_rows[origin] + torch.arange(size)

    def _make_room(self) -> None:
        """One block, of memory that the system lends page by page: thousands of small tensors, each among a step's
        large ones, can keep the allocator from using that memory again."""
        if len(self._known) < self._rows:
            self._logits = torch.empty(self._rows, self._logits.shape[1])
            self._known = torch.from_numpy(np.zeros(self._rows, dtype=bool))

    @contextmanager
    def asking_anew(self) -> Iterator[None]:
        """While the block runs the model is asked about all batches, those that it has answered too."""
        self._asks_anew = True
        try:
            yield
        finally:
            self._asks_anew = False

    def to_be_asked(
        self, data: SearchData, augmentation: AugmentConfig, *, batch_size: int, epochs: int, seed: int
    ) -> Iterator[float]:
        """The share of the images of each epoch to come about which the model will be asked, as nothing is known yet of
        the form that they take then; each is worked out when it is asked for."""
        if self._forms is not None:
            self._make_room()
        known = self._known.clone() if self._forms is not None else self._known
        for epoch in range(epochs):
            asked = images = 0
            for origin, chosen, drawn in epoch_draws(data, augmentation, batch_size=batch_size, epoch=epoch, seed=seed):
                images += len(chosen)
                forms = drawn.forms(augmentation)
                if self._forms is None or forms is None:
                    asked += 0 if origin in self._first_rows else len(chosen)
                    continue
                places = chosen * self._forms + forms
                asked += int((~known[places]).sum())
                known[places] = True
            yield asked / images

    def computed(self, batch: Batch) -> Tensor:
        """The same, asked anew of the model itself, whose layers can be listened to."""
        return self._computed(batch.images)

    def _computed(self, images: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = self.model(images)
        return logits.float()
