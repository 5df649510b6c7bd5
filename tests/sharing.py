"""The command line in a process whose looks at candidates take their time: `python sharing.py LOG SECONDS KILL_AT
ARGUMENT...`.

Each look goes to LOG before it begins; in number KILL_AT the process kills itself (SIGKILL). Whoever shares its study
takes a worker for dead that has shown no life for a second and a half.
"""

import os
import signal
import sys
import time
from pathlib import Path

from autoprune.cli.main import main
from autoprune.policies import shared
from autoprune.search.problem import SearchProblem
from autoprune.search.racing import Bars
from autoprune.space.decision import Policy
from autoprune.store.score import Score
from autoprune.studies import study


def slow_down(log: Path, seconds: float, kill_at: int) -> None:
    looked, looks = SearchProblem.look, iter(range(1, 1_000_000))

    def look(self: SearchProblem, policy: Policy, seen: int, bars: Bars) -> list[Score]:
        with log.open("a") as file:
            file.write(f"{' '.join(map(str, policy))}\n")
        if next(looks) == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(seconds)
        return looked(self, policy, seen, bars)

    SearchProblem.look = look  # type: ignore[method-assign]


if __name__ == "__main__":
    study.BEAT_S, study.GRACE_S, shared.POLL_S = 0.2, 1.5, 0.1
    slow_down(Path(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
    main(sys.argv[4:])
