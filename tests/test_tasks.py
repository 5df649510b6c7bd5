"""What tasks say, against plain formulas; what breaks the contract is caught, what cannot work is refused in time."""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path

import pytest
import small_job
import torch
from bars_for_tests import DATA, INFO
from models_for_tests import same_state
from torch import Tensor
from torch.nn import functional as F

from autoprune.config import FinetuneConfig
from autoprune.config.file import find_config, load_config
from autoprune.data import ImageSplit, SearchData, normalise
from autoprune.errors import InputError
from autoprune.foundation.factories import load_factory
from autoprune.jobs import run as pipeline
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.pruning.importance import ranking_of, score_channels
from autoprune.search.evaluate import Evaluator
from autoprune.space.policy import PruningPolicy
from autoprune.store.score import DIVERGENCE
from autoprune.store.trials import TrialStore
from autoprune.tasks.classification import CLASSIFICATION, Classification
from autoprune.tasks.judging import main_metric, make_task, metric_of, score_of
from autoprune.tasks.task import PerExample
from autoprune.testing import ContractError, check_task
from autoprune.training.distill import finetune
from autoprune.training.teacher import Teacher

PLUGINS = Path(__file__).parents[1] / "examples" / "plugins"
SOFT_TARGET = f"{PLUGINS / 'soft_target.py'}:soft_target"
AGREEMENT = f"{PLUGINS / 'agreement.py'}:Agreement"


def test_classification_by_hand() -> None:
    """Odds of 3 to 1 and 1 to 1, against an original that is sure of neither."""
    outputs, labels = torch.tensor([[3.0, 1.0], [1.0, 1.0]]).log(), torch.tensor([0, 1])
    score = score_of(CLASSIFICATION, outputs, torch.zeros(2, 2), labels)
    assert score.kl == pytest.approx((math.log(0.5 / 0.75) + math.log(0.5 / 0.25)) / 2 / 2, rel=1e-5)
    assert score.cross_entropy == pytest.approx((math.log(4 / 3) + math.log(2)) / 2, rel=1e-5)
    assert score.top1 == 0.5  # of even ones the first class is the answer
    assert score.top1_se == pytest.approx(math.sqrt(0.25 / 2))
    assert score.divergence == score.kl
    assert score.main[0] == "top1"
    assert list(score.metrics) == [DIVERGENCE, "top1", "cross_entropy"]
    soft = CLASSIFICATION.distillation(outputs, torch.zeros(2, 2), temperature=2.0)
    p = math.sqrt(3) / (1 + math.sqrt(3))
    assert soft.item() == pytest.approx(4 * (math.log(0.5 / p) + math.log(0.5 / (1 - p))) / 2 / 2, rel=1e-5)
    mixed = CLASSIFICATION.loss(outputs, torch.tensor([[0.5, 0.5], [0.0, 1.0]]), smoothing=0.0)
    assert mixed.item() == pytest.approx(((math.log(4 / 3) + math.log(4)) / 2 + math.log(2)) / 2, rel=1e-5)


def test_a_metric_is_a_mean_with_its_standard_error() -> None:
    loss = metric_of(PerExample(torch.tensor([1.0, 2.0, 6.0]), higher_is_better=False))
    assert (loss.value, loss.merit) == (3.0, -3.0)
    assert loss.standard_error == pytest.approx(math.sqrt(7 / 3))
    assert loss.at_best(10.0).value == 0.0
    share = metric_of(PerExample(torch.tensor([True, True, False, True])))
    assert (share.value, share.is_share, share.standard_error) == (0.75, True, pytest.approx(math.sqrt(0.75 / 16)))
    assert share.at_best(10.0).value == 1.0
    unbounded = metric_of(PerExample(torch.tensor([10.0, 30.0])))
    assert unbounded.at_best(1.0).value == pytest.approx(20.0 + 10.0)


def test_a_score_that_lacks_a_metric_names_those_that_it_has() -> None:
    score = score_of(make_task(AGREEMENT), torch.zeros(2, 3), torch.ones(2, 3), torch.zeros(2, dtype=torch.int64))
    assert score.agreement == 1.0
    with pytest.raises(AttributeError, match="has no 'top1'; its metrics are divergence, agreement"):
        score.top1  # noqa: B018


@pytest.mark.parametrize("name", ["classification", AGREEMENT])
def test_every_task_keeps_the_contract(name: str) -> None:
    check_task(lambda: make_task(name))


class OfNoOne(Classification):
    def divergence(self, outputs: Tensor, original: Tensor) -> Tensor:
        return super().divergence(outputs, original) + 0.01


class Below(Classification):
    def divergence(self, outputs: Tensor, original: Tensor) -> Tensor:
        return (outputs - original).sum(1)


class InAll(Classification):
    def divergence(self, outputs: Tensor, original: Tensor) -> Tensor:
        return super().divergence(outputs, original).mean()


class OfTheBatch(Classification):
    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, PerExample]:
        right = super().metrics(outputs, targets)["top1"].values.double()
        return {"rank": PerExample(right - 0.01 * torch.arange(len(right)))}


class Backwards(Classification):
    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, PerExample]:
        return {"wrong": PerExample(outputs.argmax(1) != targets)}


class Signed(Classification):
    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, PerExample]:
        right = (outputs.argmax(1) == targets).double()
        return {"reward": PerExample(-right, higher_is_better=False)}


class Dead(Classification):
    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
        return (outputs.argmax(1) != targets).float().mean()


class Upwards(Classification):
    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
        return -super().loss(outputs, targets, smoothing=smoothing)


class NotTaught(Classification):
    def distillation(self, outputs: Tensor, taught: Tensor, *, temperature: float) -> Tensor:
        return outputs.square().mean()


class Unmixed(Classification):
    def loss(self, outputs: Tensor, targets: Tensor, *, smoothing: float) -> Tensor:
        return F.nll_loss(outputs.log_softmax(1), targets)


class Counting(Classification):
    calls = 0

    def divergence(self, outputs: Tensor, original: Tensor) -> Tensor:
        self.calls += 1
        return super().divergence(outputs, original) * self.calls


class InPlace(Classification):
    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, PerExample]:
        return super().metrics(outputs.sub_(outputs.mean()), targets)


class Silent(Classification):
    def metrics(self, outputs: Tensor, targets: Tensor) -> Mapping[str, PerExample]:
        return {}


class Unsaid(Classification):
    needs_labels = None  # type: ignore[assignment]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (OfNoOne, "divergence: must be 0 for the same outputs, was up to 0.01"),
        (Below, "divergence: lower is better, so that it is a loss; .* is below 0"),
        (InAll, r"divergence: must give \(24,\), one value for each example, gave \(\)"),
        (OfTheBatch, "rank: an example's value must not depend on the others"),
        (Backwards, "wrong: says higher is better, and poor outputs do not do worse"),
        (Signed, "the metric reward is a loss, and below 0 for some examples"),
        (Dead, "loss: has no gradient"),
        (Upwards, "loss: must be lower for better outputs"),
        (NotTaught, "distillation: must be lower for better outputs"),
        (Unmixed, "loss: fails for labels of mixed images"),
        (Counting, "divergence: the second time it gave other values; a task keeps nothing between calls"),
        (InPlace, "outputs: were changed in place"),
        (Silent, "task: metrics gave none"),
        (Unsaid, "must say needs_labels, True or False"),
        (object, "must say needs_labels, True or False"),
    ],
)
def test_violations_are_caught(task: type[Classification], message: str) -> None:
    with pytest.raises(ContractError, match=message):
        check_task(task)


MINE = """
import torch
from autoprune.tasks.classification import Classification
from autoprune.tasks.task import PerExample

class NoDivergence(Classification):
    divergence = None

class OfAll(Classification):
    def divergence(self, outputs, original):
        return super().divergence(outputs, original).sum()

class Nameless(Classification):
    def metrics(self, outputs, targets):
        return {"error": PerExample((outputs.argmax(1) != targets).float(), higher_is_better=False)}

class Failing(Classification):
    def metrics(self, outputs, targets):
        return {"iou": PerExample(outputs[:, :, 0, 0])}

class OfNone(Classification):
    def metrics(self, outputs, targets):
        return {"margin": PerExample(outputs[:, 0] * float("nan"))}

class Endless(Classification):
    def loss(self, outputs, targets, *, smoothing):
        return super().loss(outputs, targets, smoothing=smoothing) / 0.0

class Apart(Classification):
    def loss(self, outputs, targets, *, smoothing):
        return outputs.sum(1)

class Untaught(Classification):
    def distillation(self, outputs, taught, *, temperature):
        return outputs.sum() * float("nan")
"""


@pytest.mark.parametrize(
    ("name", "overrides", "message"),
    [
        ("NoDivergence", (), "it has no method divergence"),
        ("OfAll", (), r"task: divergence must be a tensor \(16,\), one value for each example, got \(\)"),
        ("Nameless", ("search.reward.accuracy=top1",), "the task has no metric top1; it has divergence, error"),
        ("Nameless", ("search.reward.form=amc",), "amc is for a share of right answers, the task's error is none"),
        ("Nameless", ("target={metric: macs, max_drop: 0.01}",), "target.max_drop: is a share of the images"),
        ("Failing", (), r"cannot judge outputs \(16, 10\) \(IndexError"),
        ("Nameless", (f"search.reward.form={SOFT_TARGET}",), "fails for a score of .* has no 'top1'; its metrics are"),
        (
            "Nameless",
            ("adaptive.enabled=true",),
            "adaptive.enabled: an input-adaptive model routes by the probabilities",
        ),
        ("OfNone", (f"search.reward.form={SOFT_TARGET}",), r"task=.*:OfNone: of the original itself the margin is nan"),
        ("Endless", (), r"task=.*:Endless: of the original itself the loss is inf$"),
        ("Apart", (), r"task=.*:Apart: cannot judge outputs \(16, 10\) \(ValueError: only one element"),
        ("Untaught", (), r"task=.*:Untaught: of the original itself the distillation is nan"),
        ("Missing", (), "has no callable 'Missing'"),
    ],
)
def test_a_task_that_cannot_work_is_refused_before_any_work(
    name: str, overrides: tuple[str, ...], message: str, tmp_path: Path
) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    with pytest.raises(InputError, match=message):
        static = () if "adaptive.enabled=true" in overrides else ("adaptive.enabled=false",)
        config = load_config(find_config("demo"), [f"task={tmp_path / 'mine.py'}:{name}", *static, *overrides])
        pipeline.run(config, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_without_labels_no_baseline_can_be_trained(tmp_path: Path) -> None:
    config = small_job.write_config(tmp_path / "job.yaml")
    finished = small_job.autoprune("run", config, "-o", f"task={AGREEMENT}", "--run-dir", tmp_path / "run")
    assert finished.returncode == 2
    assert re.search(r"task=.*: has no labels to train a model with; give model.checkpoint", finished.stderr)


def test_a_run_by_agreement(small_checkpoint: Path, tmp_path: Path) -> None:
    """The labels of the data are drawn by chance, by which no model is right; the metric's name stands beside it."""
    config = small_job.write_config(
        tmp_path / "job.yaml",
        model={"checkpoint": str(small_checkpoint)},
        data={"name": f"{small_job.HERE}:bars_with_other_labels"},
    )
    small_job.done("run", config, "-o", f"task={AGREEMENT}", "--run-dir", tmp_path / "run", "--quiet")
    result = json.loads((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert result["metric"] == {"name": "agreement", "higher_is_better": True, "is_share": True}
    assert result["original"]["test_accuracy"] is None
    assert result["original"]["test_metric"] == 1.0
    assert 0.6 < result["pruned"]["test_metric"] <= 1.0
    assert -math.log(2) < result["search"]["best_reward"] <= 0.0
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert "Test agreement" in page
    assert "Test accuracy" not in page
    names = {row.score.main[0] for row in TrialStore(tmp_path / "run" / "trials.sqlite").episodes()}
    assert names == {"agreement"}


def test_without_labels_none_is_ever_looked_at() -> None:
    """Scores, rankings and fine-tuned weights are the same whatever the labels are."""
    task = make_task(AGREEMENT)
    config = FinetuneConfig(epochs=1, batch_size=32, distill_weight=0.5)
    found = []
    for shift in (0, 1):
        data = SearchData(INFO, *(ImageSplit(s.images, (s.labels + shift) % 3) for s in (DATA.train, DATA.search)))
        torch.manual_seed(0)
        model = small_job.net(3).eval()
        groups = find_groups(model, INFO.input_shape).prunable
        scores = score_channels(
            model, groups, "taylor", images=normalise(data.search.images, INFO), labels=data.search.labels, task=task
        )
        elastic = ElasticModel(model, groups, ranking_of(scores))
        evaluator = Evaluator(elastic, data, score_images=10**6, calibration_images=10**6, repairs=True, task=task)
        policy = PruningPolicy.of({group.name: group.channels // 2 for group in groups})
        teacher = Teacher.of(model, data, config, task=task)
        cut = elastic.cut(policy)
        tuned = finetune(cut, data, teacher=teacher, config=config, learning_rate=0.01, seed=0)
        assert not same_state(tuned, elastic.cut(policy))
        found.append((scores, list(evaluator.looks(policy)), tuned))
    (ranked, looks, tuned), (ranked_again, looks_again, tuned_again) = found
    assert all(torch.equal(ranked[name], ranked_again[name]) for name in ranked)
    assert any(scores.sum() > 0 for scores in ranked.values())
    assert looks == looks_again
    assert looks[-1].divergence > 1e-4
    assert same_state(tuned, tuned_again)


def test_the_task_of_the_pages_keeps_the_contract(tmp_path: Path) -> None:
    page = (PLUGINS.parents[1] / "docs" / "extend.md").read_text(encoding="utf-8")
    (code,) = re.findall(r"```python\n(# top3\.py\n.*?)```", page, re.DOTALL)
    (tmp_path / "top3.py").write_text(code)
    task = make_task(f"{tmp_path / 'top3.py'}:AmongThree")
    check_task(lambda: task)
    name, found = main_metric(task, torch.tensor([[4.0, 3.0, 2.0, 1.0]] * 2), torch.tensor([2, 3]))
    assert (name, found.values.tolist()) == ("top3", [True, False])


def test_the_example_is_a_task() -> None:
    task = load_factory(AGREEMENT, field="task")()
    assert not task.needs_labels
    outputs = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
    name, found = main_metric(task, outputs, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert (name, found.values.tolist()) == ("agreement", [True, False])
    far = task.divergence(torch.tensor([[100.0, 0.0]]), torch.tensor([[0.0, 100.0]]))
    assert far.item() == pytest.approx(math.log(2), rel=1e-5)
