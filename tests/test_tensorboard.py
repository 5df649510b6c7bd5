"""Events are read back from the files themselves, record by record."""

import struct
from pathlib import Path

from judging_for_tests import scored
from tensorboardX.proto.event_pb2 import Event

from autoprune.reports.tensorboard import RunLogger
from autoprune.search.problem import Outcome, PredictedCost
from autoprune.space.policy import PruningPolicy
from autoprune.training.train import EpochLog


def outcome(reward: float) -> Outcome:
    cost = PredictedCost(predicted_latency_ms=0.25, estimated_energy_mj=1.5, macs=1000, params=10)
    return Outcome(
        (0,), PruningPolicy.of({"stem": 8}), scored(kl=0.125, cross_entropy=0.5, top1=0.875, images=8), cost, reward
    )


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """(step, value) of each tag, over all event files of `folder`. A TFRecord is length, CRC, data, CRC."""
    found: dict[str, list[tuple[int, float]]] = {}
    for path in sorted(folder.glob("*tfevents*")):
        content, start = path.read_bytes(), 0
        while start < len(content):
            (length,) = struct.unpack_from("<Q", content, start)
            event = Event.FromString(content[start + 12 : start + 12 + length])
            for value in event.summary.value:
                found.setdefault(value.tag, []).append((event.step, value.simple_value))
            start += 16 + length
    return found


def test_search_outcomes_are_logged_by_episode(tmp_path: Path) -> None:
    with RunLogger(tmp_path) as logger:
        logger.search_outcome(1, outcome(-0.5))
        logger.search_outcome(2, outcome(-0.25))
    assert scalars(tmp_path / "search") == {
        "episode/reward": [(1, -0.5), (2, -0.25)],
        "episode/top1": [(1, 0.875), (2, 0.875)],
        "episode/divergence": [(1, 0.125), (2, 0.125)],
        "episode/cross_entropy": [(1, 0.5), (2, 0.5)],
        "episode/predicted_latency_ms": [(1, 0.25), (2, 0.25)],
        "episode/estimated_energy_mj": [(1, 1.5), (2, 1.5)],
        "episode/macs": [(1, 1000.0), (2, 1000.0)],
        "episode/params": [(1, 10.0), (2, 10.0)],
    }


def test_each_stage_of_training_has_its_own_folder(tmp_path: Path) -> None:
    with RunLogger(tmp_path) as logger:
        logger.epoch("train", EpochLog(1, 0.5, 0.75, 0.25))
        logger.epoch("finetune", EpochLog(1, 0.25, 0.875, 0.125))
    expected = {
        "epoch/train_loss": [(1, 0.5)],
        "epoch/search_accuracy": [(1, 0.75)],
        "epoch/learning_rate": [(1, 0.25)],
    }
    assert scalars(tmp_path / "train") == expected
    assert scalars(tmp_path / "finetune")["epoch/search_accuracy"] == [(1, 0.875)]


def test_a_resumed_run_repeats_no_step_and_keeps_the_stages_that_it_skips(tmp_path: Path) -> None:
    with RunLogger(tmp_path) as logger:
        logger.epoch("train", EpochLog(1, 0.5, 0.75, 0.25))
        for episode in (1, 2):
            logger.search_outcome(episode, outcome(-0.5))
    with RunLogger(tmp_path) as logger:
        for episode in (1, 2, 3):
            logger.search_outcome(episode, outcome(-0.5))
    assert scalars(tmp_path / "search")["episode/reward"] == [(1, -0.5), (2, -0.5), (3, -0.5)]
    assert scalars(tmp_path / "train")["epoch/train_loss"] == [(1, 0.5)]


def test_nothing_logged_leaves_nothing(tmp_path: Path) -> None:
    with RunLogger(tmp_path / "logs"):
        pass
    assert not (tmp_path / "logs").exists()


def test_events_of_a_run_that_fails_are_on_disk(tmp_path: Path) -> None:
    try:
        with RunLogger(tmp_path) as logger:
            logger.search_outcome(1, outcome(-0.5))
            raise RuntimeError
    except RuntimeError:
        assert scalars(tmp_path / "search")["episode/reward"] == [(1, -0.5)]
    else:
        raise AssertionError("the error must come through")
