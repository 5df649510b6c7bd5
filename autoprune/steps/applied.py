"""Choices without a search: the best of what a trained agent and simple heuristics propose, or a stored policy."""

from dataclasses import replace
from pathlib import Path

from autoprune.config import RunConfig
from autoprune.errors import InputError, shown
from autoprune.foundation.progress import say
from autoprune.policies.actor import Actor, roll_out
from autoprune.results.run import SearchFigures
from autoprune.search.loop import SearchResult
from autoprune.search.prepare import Prepared
from autoprune.search.problem import SearchProblem
from autoprune.space.policy import PruningPolicy, StoredPolicy, load_policy, load_stored_policy
from autoprune.steps.choice import SOURCE, Choose, Chosen, decided, stored_choice, verified
from autoprune.steps.context import Context
from autoprune.steps.finalists import finalists
from autoprune.steps.proposals import Offers, offers, proposal_figures, strange_training, verdict
from autoprune.store.run_dir import RunDir
from autoprune.store.trials import TrialStore

STORED_POLICY = "stored policy"


def agent_choice(actor: Actor) -> Choose:
    """Score what the agent and the heuristics propose; take the best whose exported file meets the target as measured.

    Where the files are clearly faster than predicted, or the best of them miss the target, all propose again under
    limits that are corrected by that, as in a search. An agent, of whatever model and target, is thus never worse than
    the heuristics.
    """
    searcher = f"{actor.searcher} (trained before)"
    source = f"agent {actor.digest}"

    def choose(context: Context) -> Chosen:
        config, prepared, run_dir, store = context.config, context.prepared, context.run_dir, context.store
        if store.kept(SOURCE) is None and run_dir.policy.is_file():
            raise InputError(f"{run_dir.policy}: the run there has a policy already; choose another --run-dir")
        if (done := _resumed(source, run_dir, store)) is not None:
            return done
        strange = strange_training(actor.training, prepared.problem, model=config.model.name)
        if strange is not None:
            say(strange)
        rounds: list[Offers] = []

        def propose(problem: SearchProblem) -> SearchResult:
            rounds.append(offers(problem, searcher, problem.pruning_of(roll_out(actor, problem)), config))
            return rounds[-1].result

        one = config.model_copy(update={"search": config.search.model_copy(update={"finalists": 1})})
        found, result = verified(replace(context, config=one), propose(prepared.problem), propose, of_few=True)
        chosen = found.policies[0]
        proposals = proposal_figures(rounds, found, chosen)
        taken = next(proposal for proposal in proposals if proposal.taken)
        applied = f"{'it' if taken.proposer == searcher else f'that of {taken.proposer}'} is applied"
        own = verdict(proposals, remedy=f"{applied}; `autoprune search` trains an agent for this model and target")
        say(f"taking the proposal of {taken.proposer}: reward {taken.reward:.4f}, {taken.quality}")
        figures = SearchFigures(
            searcher=searcher,
            evaluations=len({outcome.pruning for each in rounds for outcome in each.result.outcomes}),
            wall_s=result.wall_s,
            seed=config.seed,
            best_reward=taken.reward,
            latency_error=found.latency_error,
            proposals=proposals,
            warnings=tuple(text for text in (strange, own) if text is not None),
        )
        return decided(context, chosen, figures)

    return choose


def policy_choice(config: RunConfig, path: Path) -> Choose:
    """Apply the policy in `path`, whatever it is worth: heuristics are scored beside it only to tell if they do better.

    Raises `InputError` if the file holds no policy, and when deciding if the policy does not fit the model. That it
    was found for a model of another name is said: its groups may be the same.
    """
    stored = load_stored_policy(path)
    if (strange := _of_another_model(stored, config)) is not None:
        say(strange)

    def choose(context: Context) -> Chosen:
        prepared, run_dir, store = context.prepared, context.run_dir, context.store
        ordered = _checked(prepared, stored, config, run_dir)
        if (done := _resumed(f"policy {ordered.key}", run_dir, store)) is not None:
            return done
        offered = offers(prepared.problem, STORED_POLICY, ordered, config)
        found = finalists(prepared, offered.outcomes[STORED_POLICY], config)
        proposals = proposal_figures([offered], found, ordered)
        own = verdict(proposals, remedy="it is applied all the same, as it was given; `autoprune search` finds another")
        figures = SearchFigures(
            searcher=STORED_POLICY,
            evaluations=0,
            wall_s=0.0,
            seed=config.seed,
            best_reward=proposals[0].reward,
            proposals=proposals,
            warnings=tuple(text for text in (strange, own) if text is not None),
        )
        return decided(context, ordered, figures)

    return choose


def _resumed(source: str, run_dir: RunDir, store: TrialStore) -> Chosen | None:
    """What was decided before from the same source; `InputError` if the run there began with another."""
    begun = store.kept(SOURCE)
    if begun is not None and begun != source:
        theirs, ours = begun.split()[0], source.split()[0]
        article = "another" if theirs == ours else "an" if theirs == "agent" else "a"
        raise InputError(f"{run_dir.root}: the run there applies {article} {theirs}; choose another --run-dir")
    store.keep(SOURCE, source)
    return None if begun is None else stored_choice(run_dir, store)


def _of_another_model(stored: StoredPolicy, config: RunConfig) -> str | None:
    """What to say of a policy that was found for a model of another name; of a file, the name in it counts."""
    if stored.model is None or stored.model.rpartition("/")[2] == config.model.name.rpartition("/")[2]:
        return None
    return f"the policy was found for {shown(stored.model)}, and is applied to {config.model.name}"


def _checked(prepared: Prepared, stored: StoredPolicy, config: RunConfig, run_dir: RunDir) -> PruningPolicy:
    """The policy in the order of the model's groups; `InputError` if it is none of this model, or of the run there."""
    original = prepared.elastic.full_policy.as_dict()
    channels = stored.policy.as_dict()
    wrong = [f"the model has no group {name}" for name in channels.keys() - original.keys()]
    wrong += [f"{name} is missing" for name in original.keys() - channels.keys()]
    wrong += [
        f"{name} keeps {kept} of {original[name]}" for name, kept in channels.items() if kept > original.get(name, kept)
    ]
    wrong += [
        f"{name} has {original[name]} channels, the policy is of {width}"
        for name, width in stored.widths.items()
        if width != original.get(name, width)
    ]
    wrong += [
        f"{group.name} keeps nothing, and no branch goes with it"
        for group in prepared.elastic.groups
        if channels.get(group.name) == 0 and not group.branch
    ]
    wrong += [
        f"{option.name} is {channels[option.name]}, not one of {', '.join(map(str, option.sizes))}"
        for option in prepared.elastic.options
        if channels.get(option.name, option.sizes[-1]) not in option.sizes
    ]
    if wrong:
        raise InputError(
            f"the policy does not fit {config.model.name} ({'; '.join(sorted(wrong)[:3])}; {len(wrong)} in all); "
            f"apply it to the model that it was found for, with the same search.options, or give --agent"
        )
    ordered = PruningPolicy.of({name: channels[name] for name in original})
    if run_dir.policy.is_file() and load_policy(run_dir.policy) != ordered:
        raise InputError(f"{run_dir.policy}: the run there applies another policy; choose another --run-dir")
    return ordered
