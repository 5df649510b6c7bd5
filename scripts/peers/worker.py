"""One cut, made by a library of another environment, in a process of its own.

    python -m peers.worker CONFIG PEER SETTING KNOB SCRATCH FOLDER

The caller is `peers.cut`. The last line of what a failure prints is its reason.
"""

import sys
from pathlib import Path

from autoprune.config import load_config
from autoprune.subject import load_subject
from peers.table import PEERS
from peers.task import Task, write_cut


def main(config_path: str, peer: str, setting: str, knob: str, scratch: str, folder: str) -> None:
    config = load_config(Path(config_path))
    subject = load_subject(config)
    task = Task(
        PEERS[peer], setting, float(knob), subject.model, subject.data, config.search.score_images, Path(scratch)
    )
    write_cut(task, Path(folder), subject.spec)


if __name__ == "__main__":
    main(*sys.argv[1:])
