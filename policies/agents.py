"""Reinforcement-learning agents as searchers: heuristics first, then exploration under the critic's eye."""

import contextlib
import copy
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from autoprune.envs.rollout import RollOut, demonstrate, roll_out
from autoprune.foundation.seeding import derive_seed, rng
from autoprune.foundation.tensor_json import from_json, to_json
from autoprune.policies.exploration import act_with, propose, utilities_of
from autoprune.policies.heuristics import demonstrations
from autoprune.policies.learners import IMITATION_LIMIT, AgentSettings, make_learner
from autoprune.search.problem import Outcome
from autoprune.search.searcher import Ask, Brief, SearcherState

REDRAWS = 5  # rounds of proposals, each bolder, to find a policy that was not evaluated before


class AgentSearcher:
    """One agent of stable-baselines3 or sb3-contrib on one problem.

    The heuristics' policies are the first round of episodes, so an agent is never worse than they are. Then each round
    proposes many roll-outs, which cost no evaluation, asks for a few that are new, and learns from them. The actor that
    is given in the end is brought back to the best episode, so that it stands for what the search has found.
    Evaluations leave the agent's random state and thread count alone, and the agent theirs: a search takes the same
    course whether scores are computed or remembered.
    """

    def __init__(self, brief: Brief, settings: AgentSettings, *, name: str) -> None:
        self.name, self._brief, self._settings = name, brief, settings
        with _private_randomness(derive_seed(brief.seed, "weights")):
            self._learner = make_learner(
                settings, decisions=len(brief.problem.decisions), episodes=brief.max_episodes + 1
            )
        self._rolled: list[RollOut] = []  # the episodes so far
        self._rewards: list[float] = []
        self._asked: list[RollOut] = []  # the last round
        self._rounds = 0

    def ask(self) -> Ask:
        """The next round. Learning from the one before is put off until now: after the last one nobody asks."""
        self._asked = self._next_round() if self._rounds else self._first_round()
        self._rounds += 1
        return Ask(tuple(episode.policy for episode in self._asked))

    def tell(self, outcomes: Sequence[Outcome]) -> None:
        self._asked = self._asked[: len(outcomes)]
        self._rolled += self._asked
        self._rewards += [outcome.reward for outcome in outcomes]

    def state(self) -> SearcherState:
        learnt = to_json(self._learner.state())
        return SearcherState(
            {
                "rounds": self._rounds,
                "rewards": list(self._rewards),
                "rolled": [episode.policy for episode in self._rolled],
                "asked": [episode.policy for episode in self._asked],
                "learner": learnt.text,
            },
            learnt.tensors,
        )

    def restore(self, state: SearcherState) -> None:
        facts = state.facts
        self._rounds, self._rewards = facts["rounds"], list(facts["rewards"])
        self._rolled, self._asked = (
            [demonstrate(self._brief.problem, tuple(options)) for options in several]
            for several in (facts["rolled"], facts["asked"])
        )
        self._learner.restore(from_json(facts["learner"], state.tensors))

    def trained(self) -> nn.Module:
        """A copy of the actor, after a last imitation of the best episode."""
        actor, settings = copy.deepcopy(self._learner.actor), self._settings.imitation
        with _private_randomness(derive_seed(self._brief.seed, "final")):
            imitate(actor, self._best(), steps=settings.final_steps, learning_rate=settings.learning_rate)
        return actor

    def _first_round(self) -> list[RollOut]:
        problem = self._brief.problem
        return [demonstrate(problem, policy) for policy in demonstrations(problem)]

    def _next_round(self) -> list[RollOut]:
        number, seed, imitation = self._rounds - 1, self._brief.seed, self._settings.imitation
        with _private_randomness(derive_seed(seed, f"round {number}")):
            self._learner.learn(self._asked, utilities_of(self._rewards).tolist())
            imitate(
                self._learner.actor,
                self._best(),
                steps=imitation.round_steps if number else imitation.first_steps,
                learning_rate=imitation.learning_rate,
            )
            return self._choose(rng(seed, f"proposals {number}"))

    def _best(self) -> RollOut:
        return self._rolled[int(np.argmax(self._rewards))]

    def _choose(self, draw: np.random.Generator) -> list[RollOut]:
        """Proposals that were not evaluated yet: mostly the critic's favourites, sometimes any."""
        problem, settings, learner = self._brief.problem, self._settings.exploration, self._learner
        known = {episode.policy for episode in self._rolled}
        progress = len(known) / self._brief.max_evaluations
        noise = settings.noise_start + progress * (settings.noise_end - settings.noise_start)
        (followed,) = roll_out(problem, act_with(learner.actor))
        bases = [self._best().policy, followed.policy]
        for redraw in range(REDRAWS):
            proposals = propose(problem, bases, settings, noise=noise * (1 + redraw), rng=draw)
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
