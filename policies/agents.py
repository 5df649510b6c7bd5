"""Reinforcement-learning agents as searchers: heuristics first, then exploration under the critic's eye."""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from autoprune.envs.layerwise import LayerwisePruningEnv
from autoprune.envs.rollout import RollOut, demonstrate, roll_out
from autoprune.policies.exploration import Exploration, act_with, propose, utilities_of
from autoprune.policies.heuristics import demonstrations
from autoprune.policies.learners import IMITATION_LIMIT, AgentSettings, Learner, make_learner
from autoprune.policies.trained import TrainedActor, exported_network
from autoprune.search.session import BudgetSpent, SearchSession
from autoprune.seeding import derive_seed, rng

REDRAWS = 5  # rounds of proposals, each bolder, to find a policy that was not evaluated before


@dataclass(frozen=True)
class Imitation:
    """Behaviour cloning of the best episode so far: after the first round, each other one, and of the final actor."""

    learning_rate: float = 3e-3
    first_steps: int = 300
    round_steps: int = 20
    final_steps: int = 600


@dataclass(frozen=True)
class AgentSearcher:
    """One agent of stable-baselines3 or sb3-contrib on one problem.

    The heuristics' policies are the first round of episodes, so an agent is never worse than they are. Then each round
    proposes many roll-outs, which cost no evaluation, evaluates a few that are new, and learns from them. The final
    actor is brought back to the best episode, so that it stands for what the search has found. Evaluations leave the
    agent's random state and thread count alone, and the agent theirs: a search takes the same course whether scores are
    computed or remembered.
    """

    name: str
    agent: AgentSettings
    exploration: Exploration = field(default_factory=Exploration)
    imitation: Imitation = field(default_factory=Imitation)

    def explore(self, session: SearchSession) -> TrainedActor:
        env = LayerwisePruningEnv(session)
        with _private_randomness(derive_seed(session.seed, "weights")):
            learner = make_learner(self.agent, env, episodes=session.max_episodes + 1)
        best = self._learn(env, learner, session)
        with _private_randomness(derive_seed(session.seed, "final")):
            imitate(learner.actor, best, steps=self.imitation.final_steps, learning_rate=self.imitation.learning_rate)
        return TrainedActor(self.name, exported_network(learner.actor))

    def _learn(self, env: LayerwisePruningEnv, learner: Learner, session: SearchSession) -> RollOut:
        """Play rounds of episodes until the budget is spent; the best episode."""
        rolled: list[RollOut] = []
        rewards: list[float] = []
        chosen = [demonstrate(session, policy) for policy in demonstrations(session)]
        with contextlib.suppress(BudgetSpent):
            for number in itertools.count():
                session.expect(episode.policy for episode in chosen)
                for episode in chosen:
                    rewards.append(play(env, episode))
                    rolled.append(episode)
                if session.spent:
                    break
                best = rolled[int(np.argmax(rewards))]
                with _private_randomness(derive_seed(session.seed, f"round {number}")):
                    learner.learn(chosen, utilities_of(rewards).tolist())
                    imitate(
                        learner.actor,
                        best,
                        steps=self.imitation.round_steps if number else self.imitation.first_steps,
                        learning_rate=self.imitation.learning_rate,
                    )
                    chosen = self._choose(session, learner, best, rng(session.seed, f"proposals {number}"))
        return rolled[int(np.argmax(rewards))]

    def _choose(
        self, session: SearchSession, learner: Learner, best: RollOut, draw: np.random.Generator
    ) -> list[RollOut]:
        """Proposals that were not evaluated yet: mostly the critic's favourites, sometimes any."""
        known = {outcome.policy for outcome in session.outcomes}
        progress = session.evaluations / session.max_evaluations
        settings = self.exploration
        noise = settings.noise_start + progress * (settings.noise_end - settings.noise_start)
        (followed,) = roll_out(session, act_with(learner.actor))
        bases = [best.rungs, followed.rungs]
        for redraw in range(REDRAWS):
            proposals = propose(session, bases, settings, noise=noise * (1 + redraw), rng=draw)
            new = list({proposal.policy: proposal for proposal in proposals if proposal.policy not in known}.values())
            if new:
                break
        else:
            return [proposals[0]]
        liked = [new[index] for index in np.argsort(-learner.appraise(new), kind="stable")]
        return [
            liked.pop(0 if draw.random() < settings.greed else int(draw.integers(len(liked))))
            for _ in range(min(settings.episodes, len(new)))
        ]


def play(env: LayerwisePruningEnv, rolled: RollOut) -> float:
    """Do a roll-out's actions in the environment; the episode's reward."""
    env.reset()
    return sum(env.step(rolled.actions[step : step + 1])[1] for step in range(len(rolled.actions)))


def imitate(actor: nn.Module, rolled: RollOut, *, steps: int, learning_rate: float) -> None:
    """Behaviour cloning: least squares on one episode's actions."""
    observations = torch.from_numpy(rolled.observations[:-1])
    actions = torch.from_numpy(rolled.actions).clamp(-IMITATION_LIMIT, IMITATION_LIMIT).unsqueeze(-1)
    optimizer = torch.optim.Adam(actor.parameters(), lr=learning_rate)
    for _ in range(steps):
        loss = functional.mse_loss(actor(observations), actions)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()


@contextlib.contextmanager
def _private_randomness(seed: int) -> Iterator[None]:
    """The block draws from global generators seeded with `seed`, on one thread; all is as before when it ends."""
    numpy_state, torch_state, threads = np.random.get_state(), torch.get_rng_state(), torch.get_num_threads()
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    try:
        yield
    finally:
        np.random.set_state(numpy_state)
        torch.set_rng_state(torch_state)
        torch.set_num_threads(threads)
