"""Elastic distillation: training that makes every cut of the elastic model accurate without a training of its own.

Each step trains one cut, drawn by chance and taught by the original; the largest and the smallest may get a share of
the steps (the sandwich rule of Yu & Huang 2019, one cut a step instead of all in each). All are nested, so they share
weights.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

from torch import Tensor, nn
from torch.func import functional_call

from autoprune.config import ElasticConfig, FinetuneConfig
from autoprune.data import SearchData
from autoprune.policy import PruningPolicy
from autoprune.pruning.elastic import ElasticModel
from autoprune.search.evaluate import Evaluator
from autoprune.seeding import rng
from autoprune.training.batches import Batch
from autoprune.training.distill import distillation_loss, finetune_recipe
from autoprune.training.fast_batchnorm import fast_batchnorm
from autoprune.training.memory_format import laid_out
from autoprune.training.strided_convolution import safe_strided_convolutions
from autoprune.training.teacher import Teacher
from autoprune.training.train import EpochLog, Loss, fit

WATCHED_CUTS = 4


def train_elastic(
    elastic: ElasticModel,
    data: SearchData,
    policies: Sequence[PruningPolicy],
    *,
    smallest: PruningPolicy,
    teacher: Teacher,
    evaluator: Evaluator,
    config: ElasticConfig,
    distillation: FinetuneConfig,
    learning_rate: float,
    seed: int,
    state_path: Path | None = None,
    on_epoch: Callable[[EpochLog], None] | None = None,
) -> ElasticModel:
    """The same elastic model over trained weights. `teacher` is of `elastic.original`, which is not changed.

    Most steps train one of `policies`, drawn by chance; `config.ends_share` of them the largest cut or the `smallest`.
    The state whose cuts have the highest accuracy on the search split, a mean over some of them, is returned.
    """
    watched = policies[:: -(-len(policies) // WATCHED_CUTS)]

    def score(model: nn.Module) -> float:
        trained = elastic.with_weights_of(model)
        return sum(evaluator.of(trained).score(policy).top1 for policy in watched) / len(watched)

    trained = fit(
        elastic.cut(elastic.full_policy),
        data,
        loss=elastic_loss(
            elastic,
            distillation_loss(teacher, distillation),
            policies,
            ends=(elastic.full_policy, smallest),
            ends_share=config.ends_share,
            seed=seed,
        ),
        recipe=finetune_recipe(
            distillation, epochs=config.epochs, learning_rate=learning_rate, max_minutes=config.max_minutes
        ),
        seed=seed,
        description="elastic distillation",
        score=score,
        state_path=state_path,
        on_epoch=on_epoch,
    )
    return elastic.with_weights_of(trained)


def elastic_loss(
    elastic: ElasticModel,
    loss: Loss,
    policies: Sequence[PruningPolicy],
    *,
    ends: Sequence[PruningPolicy],
    ends_share: float,
    seed: int,
) -> Loss:
    """`loss` of one cut of the model given: one of `ends` or of `policies`, drawn anew for each batch.

    The same batch always gets the same cut, so that a resumed training goes the same way.
    """

    def loss_of_a_cut(model: nn.Module, batch: Batch) -> Tensor:
        chance = rng(seed, f"cut {batch.step}")
        choices = ends if chance.random() < ends_share else policies
        policy = choices[int(chance.integers(len(choices)))]
        whole = elastic.with_weights_of(model)
        cut = _Cut(whole.cut(policy), whole.cut_parameters(policy)).train(model.training)
        with fast_batchnorm(cut), safe_strided_convolutions(cut):
            return loss(cut, batch)

    return loss_of_a_cut


class _Cut(nn.Module):
    """A cut that computes with `parameters`, by name, in place of its own."""

    def __init__(self, cut: nn.Module, parameters: dict[str, Tensor]) -> None:
        super().__init__()
        self.cut = laid_out(cut)
        self._parameters_of_cut = parameters

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = functional_call(self.cut, self._parameters_of_cut, (x,))
        return logits
