"""What an `AdaptiveSession` does for a service: throughput of batches, budgets on a harder stream, labels on another.

    python benchmarks/session.py runs/adaptive

RUN_DIR is one of `autoprune adapt`, or of `autoprune run` with `adaptive.enabled`. The images are those of the search
split. Throughput: batches through the session and through the original's file in turn, one thread each; the ratio is
the median over the rounds, with a bootstrapped 95% interval. The stream: images that the smallest level answers are
easy, the others hard, and each comes alone; midway the share of hard ones doubles. The budget is what the first half
takes without one. Drift: the images with noise, whose labels arrive some batches later; with them learned from and
without. Prints JSON.
"""

import argparse
import json
import time
from collections import deque
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from autoprune.adaptive.file.session import AdaptiveAnswers, AdaptiveSession
from autoprune.adaptive.report.page import read_adaptive
from autoprune.config.file import load_config
from autoprune.data import normalise
from autoprune.export.onnx_file import INPUT_NAME, OUTPUT_NAME
from autoprune.runtimes.onnxruntime import make_session, onnxruntime
from autoprune.steps.subject import load_subject
from autoprune.store.run_dir import RunDir

ROUNDS = 25
CHUNK = 500
RESAMPLES = 2000
DRIFT_BATCH = 16
NOISE = 0.2  # standard deviation, of normalised images
LABELS_LATER = 20  # batches
SETTLING = 0.2  # of each half: the controller may take so long

Images = NDArray[np.float32]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run_dir", type=Path)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--stream-images", type=int, default=24_000)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    run_dir = RunDir(arguments.run_dir)
    result = read_adaptive(run_dir)
    data = load_subject(load_config(run_dir.config)).data
    images = normalise(data.search.images, data.info).contiguous().numpy()
    found = {
        "test_accuracy": {"original": result.original.test_accuracy, "adaptive": result.adaptive.test_accuracy},
        "throughput": throughput(run_dir, images, batch=arguments.batch),
        "stream": stream(run_dir, images, count=arguments.stream_images, seed=arguments.seed),
        "drift": drift(run_dir, images, data.search.labels.numpy(), seed=arguments.seed),
    }
    print(json.dumps(found, indent=1))


def throughput(run_dir: RunDir, images: Images, *, batch: int) -> dict[str, object]:
    """Images a second of both, in turn."""
    original = make_session(run_dir.original_onnx, threads=1)
    adaptive = AdaptiveSession(run_dir.adaptive_onnx)
    batches = [images[start : start + batch] for start in range(0, len(images) - batch + 1, batch)]
    a_round = max(1, len(batches) // ROUNDS)
    seconds = np.zeros((ROUNDS, 2))
    for batch_images in batches[:3]:
        original.run(None, {INPUT_NAME: batch_images})
        adaptive.run(batch_images)
    for number in range(ROUNDS):
        for batch_images in batches[number * a_round : (number + 1) * a_round]:
            started = time.perf_counter()
            original.run(None, {INPUT_NAME: batch_images})
            between = time.perf_counter()
            adaptive.run(batch_images)
            seconds[number] += between - started, time.perf_counter() - between
    rates = a_round * batch / seconds
    ratios = rates[:, 1] / rates[:, 0]
    drawn = np.random.default_rng(0).choice(ratios, (RESAMPLES, ROUNDS))
    low, high = np.percentile(np.median(drawn, axis=1), [2.5, 97.5])
    return {
        "batch": batch,
        "images": ROUNDS * a_round * batch,
        "original_images_per_s": float(np.median(rates[:, 0])),
        "adaptive_images_per_s": float(np.median(rates[:, 1])),
        "ratio": float(np.median(ratios)),
        "ratio_ci95": [float(low), float(high)],
    }


def stream(run_dir: RunDir, images: Images, *, count: int, seed: int) -> dict[str, object]:
    """Mean latencies of an image with a budget, on a stream whose share of hard images doubles midway."""
    levels = AdaptiveSession(run_dir.adaptive_onnx).run(images).levels
    hard, easy = np.flatnonzero(levels > 0), np.flatnonzero(levels == 0)
    share = min(len(hard) / len(images), 0.5)
    generator = np.random.default_rng(seed)
    half = count // 2
    order = np.concatenate([drawn(easy, hard, half, hard_share, generator) for hard_share in (share, 2 * share)])
    budget_ms = mean_ms(AdaptiveSession(run_dir.adaptive_onnx), images, order[:half])
    free_ms = mean_ms(AdaptiveSession(run_dir.adaptive_onnx), images, order[half:])
    session = AdaptiveSession(run_dir.adaptive_onnx, latency_budget_ms=budget_ms)
    settling = int(SETTLING * half)
    parts = [order[:settling], order[settling:half], order[half : half + settling], order[half + settling :]]
    held_ms = [mean_ms(session, images, part) for part in parts]
    whole_ms = float(np.dot(held_ms, [len(part) for part in parts]) / len(order))
    return {
        "images": len(order),
        "hard_share": [share, 2 * share],
        "budget_ms": budget_ms,
        "second_half_without_budget_ms": free_ms,
        "parts": ["first half, settling", "first half", "second half, settling", "second half"],
        "latency_ms_mean": held_ms,
        "of_budget": [value / budget_ms for value in held_ms],
        "whole_of_budget": whole_ms / budget_ms,
        "price_at_the_end": session.price,
    }


def drift(run_dir: RunDir, images: Images, labels: NDArray[np.int64], *, seed: int) -> dict[str, object]:
    """Accuracy and the share of images that only the smallest level ran for, before noise sets in and with it.

    With noise the images come twice: the second time counts, when what there was to learn has been learnt.
    """
    generator = np.random.default_rng(seed)
    noisy = images + NOISE * generator.standard_normal(images.shape, dtype=np.float32)
    original = make_session(run_dir.original_onnx, threads=1)
    found: dict[str, object] = {
        "noise": NOISE,
        "original_accuracy": [accuracy_of(original, shown, labels) for shown in (images, noisy)],
    }
    for name, learns in (("fixed", False), ("learning", True)):
        session = AdaptiveSession(run_dir.adaptive_onnx)
        passes = [routed(session, shown, labels, learns=learns) for shown in (images, noisy, noisy)]
        found[name] = {
            "accuracy": [passes[0][0], passes[2][0]],
            "smallest_level_share": [passes[0][1], passes[2][1]],
            "worth_of_going_on": session.worth_of_going_on,
        }
    return found


def accuracy_of(session: onnxruntime.InferenceSession, images: Images, labels: NDArray[np.int64]) -> float:
    right = [
        session.run([OUTPUT_NAME], {INPUT_NAME: images[start : start + CHUNK]})[0].argmax(1)
        == labels[start : start + CHUNK]
        for start in range(0, len(images), CHUNK)
    ]
    return float(np.concatenate(right).mean())


def routed(session: AdaptiveSession, images: Images, labels: NDArray[np.int64], *, learns: bool) -> tuple[float, float]:
    """Accuracy, and the share of images that the smallest level answered."""
    right, smallest = 0, 0
    waiting: deque[tuple[AdaptiveAnswers, NDArray[np.int64]]] = deque()
    for start in range(0, len(images), DRIFT_BATCH):
        own = labels[start : start + DRIFT_BATCH]
        answers = session.run(images[start : start + DRIFT_BATCH])
        right += int((answers.logits.argmax(1) == own).sum())
        smallest += int((answers.levels == 0).sum())
        waiting.append((answers, own))
        if learns and len(waiting) > LABELS_LATER:
            session.learn(*waiting.popleft())
    return right / len(images), smallest / len(images)


def drawn(
    easy: NDArray[np.int64], hard: NDArray[np.int64], count: int, hard_share: float, generator: np.random.Generator
) -> NDArray[np.int64]:
    is_hard = generator.random(count) < hard_share
    return np.where(is_hard, generator.choice(hard, count), generator.choice(easy, count))


def mean_ms(session: AdaptiveSession, images: Images, order: NDArray[np.int64]) -> float:
    before = session.counters
    for place in order:
        session.run(images[place : place + 1])
    after = session.counters
    return 1000 * (after.seconds - before.seconds) / (after.images - before.images)


if __name__ == "__main__":
    main()
