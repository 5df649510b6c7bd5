"""The routing environment keeps Gymnasium's contract, and its rewards are those worked out by hand."""

import math

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from routing_for_tests import answers_by_chance, answers_by_hand

from autoprune.adaptive.routing.environment import InputAdaptiveEnv
from autoprune.envs import INPUT_ADAPTIVE
from autoprune.envs.misuse import InvalidAction, ResetNeeded
from autoprune.envs.router_observation import LARGEST_NUMBER, observation_size, observe_answer, price_of, share_of
from autoprune.errors import InputError


def test_it_is_registered_and_keeps_the_contract() -> None:
    env = gymnasium.make(INPUT_ADAPTIVE, answers=answers_by_chance(20, seed=0))
    check_env(env.unwrapped, skip_render_check=True)


def test_rewards_by_hand() -> None:
    """Image 2: the first level is wrong, the second right. At a price of 0.2 a run of it costs 0.2 * 2 / 4."""
    env = InputAdaptiveEnv(answers_by_hand())
    env.reset(seed=0, options={"image": 2, "price": 0.2})
    _, reward, done, _, info = env.step(np.int64(1))
    assert (reward, done, info) == (pytest.approx(1.0 - 0.1), False, {})
    _, reward, done, _, info = env.step(np.int64(1))
    assert (reward, done, info) == (0.0, True, {"level": 1, "right": True})
    # Image 3 straight to the largest level, image 0 nowhere: it is right already.
    env.reset(options={"image": 3, "price": 0.2})
    _, reward, done, _, info = env.step(np.int64(2))
    assert (reward, done, info) == (pytest.approx(1.0 - 0.2), True, {"level": 2, "right": True})
    env.reset(options={"image": 0, "price": 0.2})
    _, reward, done, _, info = env.step(np.int64(0))
    assert (reward, done, info) == (0.0, True, {"level": 0, "right": True})
    _, _ = env.reset(options={"image": 0, "price": 0.2})
    assert env.step(np.int64(2))[1] == pytest.approx(-0.2)


def test_the_same_seed_draws_the_same_images_and_prices() -> None:
    first, second = (InputAdaptiveEnv(answers_by_chance(50, seed=0)) for _ in range(2))
    seen = [env.reset(seed=3)[0].tolist() for env in (first, second)]
    assert seen[0] == seen[1]
    assert [first.reset()[0].tolist() for _ in range(3)] == [second.reset()[0].tolist() for _ in range(3)]
    assert first.reset()[0].tolist() != first.reset()[0].tolist()


def test_an_observation_by_hand() -> None:
    logits = np.array([[1.0, 4.0, -2.0]])  # their mean is 1
    probabilities = np.asarray(np.exp(logits) / np.exp(logits).sum(), dtype=np.float32)
    seen = observe_answer(1, probabilities, np.array([0.5], dtype=np.float32), levels=2)
    assert seen.shape == (1, observation_size(3, 2)) == (1, 8)
    # Logits less their mean, in tens; the two largest probabilities; which level; the price.
    total = math.e + math.e**4 + math.e**-2
    surest = [math.e**4 / total, math.e / total]
    assert seen[0].tolist() == pytest.approx([0.0, 0.3, -0.3, *surest, 0.0, 1.0, 0.5], abs=1e-6)
    certain = observe_answer(0, np.array([[1.0, 0.0]], dtype=np.float32), np.zeros(1, dtype=np.float32), levels=2)
    assert np.abs(certain).max() < LARGEST_NUMBER


def test_prices_and_shares_are_each_others_inverse() -> None:
    for share in (0.0, 0.1, 0.5, 1.0):
        assert share_of(float(price_of(np.array(share, dtype=np.float32), 0.25)), 0.25) == pytest.approx(
            share, abs=1e-6
        )
    assert share_of(9.0, 0.25) == 1.0


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_a_price_range_of_nothing_is_refused(price: float) -> None:
    with pytest.raises(ValueError, match="max_price must be positive"):
        InputAdaptiveEnv(answers_by_hand(), max_price=price)


def test_a_step_outside_of_an_episode_says_what_to_call() -> None:
    env = InputAdaptiveEnv(answers_by_hand())
    with pytest.raises(ResetNeeded, match=r"no episode has begun; call reset\(\) first"):
        env.step(np.int64(0))
    for action in (0, 2):  # stops, or runs the largest level
        env.reset(seed=0)
        env.step(np.int64(action))
        for _ in range(2):
            with pytest.raises(ResetNeeded, match=r"the episode is over; call reset\(\) first"):
                env.step(np.int64(0))


@pytest.mark.parametrize("action", [-1, 3, 10**30, 0.0, math.nan, None, "1", True, np.array([1]), np.array(1.0), [1]])
def test_a_wrong_action_raises_and_runs_nothing(action: object) -> None:
    env = InputAdaptiveEnv(answers_by_hand())
    env.reset(options={"image": 2, "price": 0.2})
    with pytest.raises(InvalidAction, match="action: must be a whole number from 0 to 2, got "):
        env.step(action)  # type: ignore[arg-type]
    assert env.step(np.array(1))[1] == pytest.approx(1.0 - 0.1)


@pytest.mark.parametrize(
    "options", [{"image": 4}, {"image": -1}, {"image": 1.5}, {"price": math.nan}, {"price": -1.0}, {"price": "0.1"}]
)
def test_options_out_of_range_are_refused(options: dict[str, object]) -> None:
    env = InputAdaptiveEnv(answers_by_hand())
    with pytest.raises(InputError, match=f"options: {next(iter(options))}: must be a "):
        env.reset(options=options)
