"""The learned router: it solves a problem whose best decisions are known, and learns the same from the same seed."""

import numpy as np
from routing_for_tests import always, answers_by_chance, judged_by_labels

from autoprune.adaptive.routing.environment import InputAdaptiveEnv
from autoprune.adaptive.routing.learner import RouterSettings, every_decision, mean_return, train_router
from autoprune.adaptive.routing.routing import LevelAnswers, figures_of, follow

QUICK = RouterSettings(rounds=12, steps=60)


def two_kinds(images: int) -> LevelAnswers:
    """The small level names class 0 or 1 and is always right of 0; of 1 it is wrong, and the large one right.

    Its confidence is drawn by chance and tells nothing: a cascade cannot tell the two kinds apart, a router can.
    """
    generator = np.random.default_rng(0)
    named = generator.integers(2, size=images)
    confidence = generator.uniform(0.6, 0.95, images)
    small = np.full((images, 3), 0.01)
    small[np.arange(images), named] = confidence
    small[:, 2] = 1.0 - small[:, :2].sum(1)
    labels = np.where(named == 0, 0, 2)
    large = np.full((images, 3), 0.05)
    large[np.arange(images), labels] = 0.9
    return judged_by_labels(np.stack([small, large]).astype(np.float32), labels, (1.0, 4.0))


def test_it_finds_the_best_decisions_where_confidence_tells_nothing() -> None:
    answers = two_kinds(600)
    router = train_router(answers, answers, seed=0, settings=QUICK)
    found = figures_of(follow(router.at_price(0.1), answers), answers)
    kinds = float((answers.probabilities[0].argmax(1) == 1).mean())
    assert found.accuracy > 0.99
    assert abs(found.level_share[1] - kinds) < 0.01


def test_a_higher_price_buys_less_and_no_fixed_level_returns_more() -> None:
    answers = answers_by_chance(2000, seed=2)
    router = train_router(answers, answers_by_chance(600, seed=1), seed=0, settings=QUICK)
    latencies = [
        figures_of(follow(router.at_price(price), answers), answers).estimated_latency_ms for price in (0.0, 0.05, 0.25)
    ]
    assert latencies[0] > latencies[1] > latencies[2]
    unseen = answers_by_chance(2000, seed=3)
    price = 0.1
    returned = figures_of(follow(router.at_price(price), unseen), unseen)
    fixed = [figures_of(follow(always(level), unseen), unseen) for level in range(unseen.levels)]
    largest_ms = unseen.latency_ms[-1]
    best_fixed = max(one.worth - price * one.estimated_latency_ms / largest_ms for one in fixed)
    assert returned.worth - price * returned.estimated_latency_ms / largest_ms > best_fixed + 0.01


def test_the_same_seed_learns_the_same_and_leaves_global_generators_alone() -> None:
    answers = answers_by_chance(300, seed=4)
    quick = RouterSettings(rounds=2, steps=5)
    state = np.random.get_state()[1].tolist()  # type: ignore[index]
    first, second = (train_router(answers, answers, seed=5, settings=quick) for _ in range(2))
    assert np.random.get_state()[1].tolist() == state  # type: ignore[index]
    for (weight, bias), (other_weight, other_bias) in zip(first.layers, second.layers, strict=True):
        assert np.array_equal(weight, other_weight)
        assert np.array_equal(bias, other_bias)
    assert mean_return(first, answers) == mean_return(second, answers)


def test_replayed_decisions_are_those_of_the_environment() -> None:
    answers = answers_by_chance(12, seed=6)
    settings = RouterSettings(copies=1)
    decisions = every_decision(answers, settings, seed=7)
    env = InputAdaptiveEnv(answers, max_price=settings.max_price)
    share = decisions.observations[:12, -1]
    place = 0
    for level in range(answers.levels - 1):
        for action in range(answers.levels):
            for image in range(12):
                env.reset(options={"image": image, "price": settings.max_price * float(share[image]) ** 2})
                if level:
                    env.step(np.int64(level))
                after, reward, done, _, _ = env.step(np.int64(action))
                assert decisions.actions[place] == action
                assert np.isclose(decisions.rewards[place], reward, atol=1e-5)
                assert bool(decisions.dones[place]) == done
                assert np.allclose(decisions.next_observations[place], after, atol=1e-3)
                place += 1
    assert place == len(decisions.actions)
