"""What NNI's manager starts on another machine in the place of two commands of NNI's own (see `ssh.js`).

`python -m autoprune.nni.remote.keeper` says which versions are installed, instead of installing NNI anew.
`python -m autoprune.nni.remote.keeper FOLDER SOCKET [DATA]` starts NNI's trial keeper: a process of node that starts
trials there. It listens on 127.0.0.1, and talks to the manager through the socket, which SSH forwards.
"""

import json
import os
import sys
from pathlib import Path
from urllib.parse import urlsplit

import autoprune
from autoprune.nni.client import ensure

PRELOAD = Path(__file__).parents[1] / "preload.js"
PYTHON = "AUTOPRUNE_NNI_PYTHON"  # for trials: the interpreter
SOCKET = "AUTOPRUNE_NNI_SOCKET"
KEEPER = "AUTOPRUNE_NNI_KEEPER"  # for trials: the keeper's process, set by itself
DATA = "AUTOPRUNE_NNI_DATA"  # for trials: data.name on this machine
LAUNCHER, LOG = "launcher_config.json", "scorer.log"


def keeper_of_trials() -> int:
    """In a process that a keeper has started: the keeper's."""
    return int(os.environ[KEEPER])


def scoring_folder(code: Path) -> Path:
    """Where a trial of this keeper finds the service: one of an earlier keeper may still be ending."""
    return code / f"keeper-{keeper_of_trials()}"


def start_scorer(code: Path) -> None:
    """Have the service run that scores by the recipe in `code`. Raises `NotStarted` if it cannot."""
    folder = scoring_folder(code)
    module = ["autoprune.nni.remote.scorer", str(code), str(folder)]
    ensure(folder, module, log_file=code / LOG, within=code)


def prepare(folder: Path, socket: str, data: str | None) -> dict[str, str]:
    """Have the keeper of `folder` talk through `socket`; the environment that it is to have beside what is there."""
    path = folder / LAUNCHER
    config = json.loads(path.read_text(encoding="utf-8"))
    url = urlsplit(config["managerCommandChannel"])
    path.write_text(json.dumps({**config, "managerCommandChannel": f"ws+unix:{socket}:{url.path}"}), encoding="utf-8")
    options = os.environ.get("NODE_OPTIONS", "")
    given = {"NODE_OPTIONS": f'{options} --require "{PRELOAD}"'.strip(), PYTHON: sys.executable, SOCKET: socket}
    return given if data is None else {**given, DATA: data}


def main() -> None:
    from nni.tools.nni_manager_scripts import launch_trial_keeper

    if len(sys.argv) == 1:
        print(f"autoprune {autoprune.__version__}")
        return
    folder, socket, *more = sys.argv[1:]
    os.environ.update(prepare(Path(folder), socket, more[0] if more else None))
    sys.argv[1:] = [folder]
    launch_trial_keeper.main()


if __name__ == "__main__":
    main()
