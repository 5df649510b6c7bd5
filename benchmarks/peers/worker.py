"""Cuts made by a library of another environment, in a process of its own that `peers.remote` starts.

    python -m peers.worker CONFIG PEER SCRATCH

Each line of stdin asks for one, {"setting": ..., "knob": ..., "folder": ...}, and is answered on stdout by {"error":
null} or the reason. Whatever the library prints goes to stderr.
"""

import copy
import json
import os
import sys
import traceback
from pathlib import Path

from autoprune.config.file import load_config
from autoprune.steps.subject import load_subject
from peers.table import PEERS
from peers.task import Task, reason, write_cut


def main(config_path: str, peer: str, scratch: str) -> None:
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    config = load_config(Path(config_path))
    subject = load_subject(config)
    for line in sys.stdin:
        asked = json.loads(line)
        model, score_images = copy.deepcopy(subject.model), config.search.score_images
        task = Task(PEERS[peer], asked["setting"], asked["knob"], model, subject.data, score_images, Path(scratch))
        error = None
        try:
            write_cut(task, Path(asked["folder"]), subject.spec)
        except Exception as raised:  # the caller's to judge
            traceback.print_exc()
            error = reason(raised)
        print(json.dumps({"error": error}), file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
