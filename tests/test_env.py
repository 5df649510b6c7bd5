"""The environment keeps Gymnasium's and Stable-Baselines3's contracts, and the problem's."""

import warnings

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from hypothesis import given
from hypothesis import strategies as st
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from autoprune.envs import LAYERWISE_PRUNING
from autoprune.envs.layerwise import LayerwisePruningEnv
from autoprune.envs.misuse import InvalidAction, ResetNeeded
from autoprune.envs.rollout import actions_of, demonstrate, roll_out
from autoprune.errors import InputError, RunError
from autoprune.search.problem import SearchProblem
from autoprune.search.toy import toy_optimum, toy_problem


def test_gymnasium_makes_the_registered_environment_and_finds_no_fault() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = gymnasium.make(LAYERWISE_PRUNING, problem=toy_problem())
        gymnasium_check_env(env.unwrapped)
    assert isinstance(env.unwrapped, LayerwisePruningEnv)


def test_stable_baselines3_finds_no_fault() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(LayerwisePruningEnv(toy_problem()), warn=True)


def test_an_episode_has_one_step_per_group_and_its_reward_at_the_end() -> None:
    problem = toy_problem()
    env = LayerwisePruningEnv(problem)
    env.reset(seed=0)
    best = toy_optimum()
    rewards = []
    for step, action in enumerate(actions_of(problem, best.policy)):
        observation, reward, terminated, truncated, info = env.step(np.array([action]))
        rewards.append(reward)
        assert env.observation_space.contains(observation)
        assert info["channels"] == toy_optimum().pruning.channels[step][1]
        assert terminated == (step == 3)
        assert not truncated
        assert ("outcome" in info) == terminated
    assert rewards == [0.0, 0.0, 0.0, best.reward]
    assert info["outcome"] == best


def test_asking_for_everything_still_meets_the_target() -> None:
    problem = toy_problem()
    env = LayerwisePruningEnv(problem)
    env.reset()
    for _ in problem.decisions:
        *_, info = env.step(np.ones(1, dtype=np.float32))
    assert problem.is_feasible(info["outcome"].policy)


def test_a_roll_out_is_what_the_environment_does_without_the_evaluation() -> None:
    problem = toy_problem()
    rng = np.random.default_rng(0)
    asked = rng.uniform(-1.0, 1.0, (4, 3)).astype(np.float32)
    for count, rolled in enumerate(roll_out(problem, lambda step, _: asked[step], count=3)):
        env = LayerwisePruningEnv(problem)
        observation, _ = env.reset()
        for step in range(4):
            np.testing.assert_array_equal(observation, rolled.observations[step])
            observation, _, _, _, info = env.step(asked[step, count : count + 1])
        np.testing.assert_array_equal(observation, rolled.observations[4])
        assert info["outcome"].policy == rolled.policy


def test_a_demonstration_repeats_a_feasible_policy() -> None:
    problem = toy_problem()
    best = toy_optimum().policy
    rolled = demonstrate(problem, best)
    assert rolled.policy == best
    np.testing.assert_array_equal(rolled.actions, actions_of(problem, best))


def test_a_policy_of_another_problem_cannot_be_demonstrated() -> None:
    problem = toy_problem()
    with pytest.raises(ValueError):
        actions_of(problem, (1, 2, 3))


def test_a_step_outside_of_an_episode_says_what_to_call() -> None:
    env = LayerwisePruningEnv(toy_problem())
    action = np.zeros(1, dtype=np.float32)
    with pytest.raises(ResetNeeded, match=r"step: no episode has begun; call reset\(\) first"):
        env.step(action)
    for _ in range(2):
        env.reset()
        for _ in env.problem.decisions:
            env.step(action)
        for _ in range(2):
            with pytest.raises(ResetNeeded, match=r"step: the episode is over; call reset\(\) first"):
                env.step(action)
    assert issubclass(ResetNeeded, InputError)
    assert issubclass(ResetNeeded, gymnasium.error.ResetNeeded)


@pytest.mark.parametrize("problem", [None, "toy", 5, object(), SearchProblem])
def test_what_is_no_problem_is_refused_when_the_environment_is_made(problem: object) -> None:
    with pytest.raises(InputError, match=r"^problem: must be a PruningProblem, as autoprune\.search\.toy\.toy_problem"):
        gymnasium.make(LAYERWISE_PRUNING, problem=problem)


@pytest.mark.parametrize(("beyond", "end"), [(5.0, 1.0), (-5.0, -1.0)])
def test_an_action_beyond_the_range_is_taken_for_the_nearer_end(beyond: float, end: float) -> None:
    found = []
    for action in (beyond, end):
        env = LayerwisePruningEnv(toy_problem())
        env.reset()
        observation, *_, info = env.step(np.array([action]))
        found.append((observation.tolist(), info))
    assert found[0] == found[1]


WRONG_NUMBERS = [float("nan"), float("inf"), -float("inf")]
WRONG_ACTIONS = st.one_of(
    st.sampled_from(WRONG_NUMBERS).map(lambda number: np.array([number], dtype=np.float32)),
    st.sampled_from(WRONG_NUMBERS).map(lambda number: [number]),
    st.lists(st.floats(-1.0, 1.0), min_size=2, max_size=3).map(np.array),
    st.sampled_from(
        [None, "0.5", ["0.5"], b"", [True], [None], [[0.5]], [1j], {}, [], 0.5, np.float32(0.5), [[1], []]]
    ),
)


@given(action=WRONG_ACTIONS)
def test_a_wrong_action_raises_and_decides_nothing(action: object) -> None:
    env = LayerwisePruningEnv(toy_problem())
    env.reset()
    with pytest.raises(InvalidAction, match=r"action: must be one finite number, shape \(1,\) \(beyond .*, got "):
        env.step(action)  # type: ignore[arg-type]
    *_, info = env.step(np.array([-1.0]))
    assert info["channels"] == env.problem.decisions[0].ladder[0]


@pytest.mark.parametrize("number", WRONG_NUMBERS)
def test_an_agent_that_has_diverged_ends_its_roll_out(number: float) -> None:
    with pytest.raises(RunError, match="its training has diverged"):
        roll_out(toy_problem(), lambda _, observations: np.full(len(observations), number, dtype=np.float32), count=2)
