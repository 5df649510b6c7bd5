"""A searcher in a process of its own, on the toy problem: what it asks for goes to standard output, its state into a
file after each time that it was told. Started again, it goes on from there.

`python searcher_process.py NAME STATE_FILE ASKS [STOP]` ends after so many asks; at number STOP it waits to be killed.
"""

import sys
from pathlib import Path

from autoprune.policies.table import searcher_maker
from autoprune.search.searcher import Brief, SearcherState, load_state, save_state
from autoprune.search.toy import toy_problem

BUDGET = 200


def main(name: str, path: Path, asks: int, stop: int | None = None) -> None:
    problem = toy_problem()
    searcher = searcher_maker(name)(Brief(problem, seed=0, max_evaluations=BUDGET))
    done = 0
    if path.is_file():
        kept = load_state(path)
        done = kept.facts["asks"]
        searcher.restore(SearcherState(kept.facts["searcher"], kept.tensors))
    while done < asks and (asked := searcher.ask()).policies:
        print(done, *asked.policies, flush=True)
        if done == stop:
            sys.stdin.read()
        searcher.tell([problem.evaluate(policy) for policy in asked.policies])
        done += 1
        state = searcher.state()
        save_state(path, SearcherState({"asks": done, "searcher": state.facts}, state.tensors))


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), *map(int, sys.argv[3:]))
