"""The finished run that the peers are held against, and what all are measured with."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from autoprune.config import RunConfig
from autoprune.config.file import load_config
from autoprune.data import normalise
from autoprune.errors import InputError
from autoprune.export.onnx_file import parity_max_abs
from autoprune.foundation.files import read_json
from autoprune.pruning.elastic import ElasticModel
from autoprune.pruning.find import find_groups
from autoprune.pruning.importance import ranking_of
from autoprune.pruning.structure import STRUCTURE_FILE, WEIGHTS_FILE
from autoprune.results.run import RunResult, parse_result
from autoprune.search.evaluate import Evaluator
from autoprune.search.prepare import channel_scores
from autoprune.space.policy import PruningPolicy, load_policy
from autoprune.steps.subject import Subject, load_subject
from autoprune.store.run_dir import RunDir

PARITY_IMAGES = 64
SAME_MODEL = 1e-2  # of the logits' spread: rounding, summed over a deep network


@dataclass(frozen=True)
class Contest:
    run_dir: RunDir
    config: RunConfig
    result: RunResult
    subject: Subject
    evaluator: Evaluator
    policy: PruningPolicy

    @property
    def original(self) -> nn.Module:
        """A copy."""
        return copy.deepcopy(self.evaluator.elastic.original)

    def our_cut(self) -> nn.Module:
        """Our policy as a run applies it, before fine-tuning."""
        return self.evaluator.candidate(self.policy)


def load_contest(root: Path) -> Contest:
    """Raises `InputError` if `root` holds no finished run, or its model and data are not here any more."""
    run_dir = RunDir(root)
    needed = (
        *(run_dir.config, run_dir.result, run_dir.policy, run_dir.original_onnx, run_dir.model_onnx),
        *(run_dir.pruned / name for name in (STRUCTURE_FILE, WEIGHTS_FILE)),
    )
    if missing := [str(path.relative_to(root)) for path in needed if not path.is_file()]:
        raise InputError(f"{root}: holds no finished run ({', '.join(missing)} missing); finish one with autoprune run")
    config = load_config(run_dir.config)
    if config.finetune.cut_per_step is not None:
        raise InputError(f"{run_dir.config}: finetune.cut_per_step: peers are cut in one step, so ours must be")
    subject = load_subject(config)
    if not subject.is_trained:
        raise InputError(
            f"{run_dir.config}: model.checkpoint: this run trained its own baseline and did not keep it; "
            f"train one with autoprune train, and run again with it"
        )
    groups = find_groups(subject.model, subject.data.info.input_shape).prunable
    ranking = ranking_of(channel_scores(config, subject.model, subject.data, groups))
    evaluator = Evaluator(
        ElasticModel(subject.model, groups, ranking),
        subject.data,
        score_images=config.search.score_images,
        calibration_images=config.search.calibration_images,
        repairs=config.search.repair,
    )
    result = parse_result(read_json(run_dir.result), where=str(run_dir.result))
    contest = Contest(run_dir, config, result, subject, evaluator, load_policy(run_dir.policy))
    _check_same_model(contest)
    return contest


def _check_same_model(contest: Contest) -> None:
    subject, file = contest.subject, contest.run_dir.original_onnx
    shown = normalise(subject.data.search.images[:PARITY_IMAGES], subject.data.info)
    with torch.inference_mode():
        spread = float(subject.model.eval()(shown).std())
    if parity_max_abs(subject.model, file, shown) > SAME_MODEL * spread:
        raise InputError(f"{file}: is not the model that {contest.run_dir.config} names; has its checkpoint changed?")
