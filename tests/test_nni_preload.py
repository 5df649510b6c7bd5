"""What is loaded into NNI's manager before its own code, tried in NNI's node without NNI."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest

from autoprune.nni.manager import PRELOAD

nni_node = pytest.importorskip("nni_node")
NODE = Path(nni_node.__file__).with_name("node")


def begun(folder: Path, code: str, given: Mapping[str, str]) -> "subprocess.Popen[str]":
    """A process of node that looks like NNI's manager, and runs `code`."""
    main = folder / "nni_node" / "main.js"
    main.parent.mkdir()
    main.write_text(code)
    command = [str(NODE), "--require", str(PRELOAD), str(main)]
    return subprocess.Popen(command, text=True, stdout=subprocess.PIPE, env={**os.environ, **given})


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_its_tensorboard_listens_where_its_page_does(tmp_path: Path, host: str) -> None:
    board = tmp_path / "tensorboard"
    board.write_text('#!/bin/sh\necho "$@"\n')
    board.chmod(0o755)
    code = (
        "const { spawn } = require('child_process');\n"
        "const options = { shell: true, stdio: 'inherit' };\n"
        "spawn('tensorboard', ['--bind_all --logdir_spec=0-a:/runs/--bind_all', '--port=6006'], options);\n"
    )
    path = f"{tmp_path}:{os.environ['PATH']}"
    said, _ = begun(tmp_path, code, {"PATH": path, "AUTOPRUNE_NNI_HOST": host}).communicate(timeout=60)
    assert said == f"--host {host} --logdir_spec=0-a:/runs/--bind_all --port=6006\n"


def test_it_ends_with_an_owner_whom_nobody_looks_after(tmp_path: Path) -> None:
    owner = subprocess.Popen(["sleep", "60"])
    manager = begun(tmp_path, "setInterval(() => {}, 1000);", {"AUTOPRUNE_NNI_OWNER": str(owner.pid)})
    with owner, manager:
        try:
            with pytest.raises(subprocess.TimeoutExpired):
                manager.wait(timeout=2)
            owner.kill()  # it stays in the list of processes until we wait for it
            assert manager.wait(timeout=30) != 0
        finally:
            owner.kill()
            manager.kill()


MANAGER = """
const { NNIManager } = require('core/nnimanager');
const asked = (status, maximum, underWay, waiting) => {
    const manager = new NNIManager();
    manager.status = { status };
    manager.experimentProfile = { params: { trialConcurrency: 2, maxTrialNumber: 5 } };
    manager.currSubmittedTrialNum = 5;
    manager.trialJobs = new Map([...Array(underWay)].map((_, number) => [number, {}]));
    manager.waitingTrials = Array(waiting);
    manager.trialConcurrencyChange = 0;
    manager.updateExperimentProfile({ params: { maxTrialNumber: maximum } }, 'MAX_TRIAL_NUM');
    const { maxTrialNumber, trialConcurrency } = manager.experimentProfile.params;
    return [maxTrialNumber, trialConcurrency, manager.trialConcurrencyChange].join(' ');
};
console.log(asked('DONE', 9, 0, 0));
console.log(asked('DONE', 6, 0, 0));
console.log(asked('DONE', 9, 0, 1));
console.log(asked('NO_MORE_TRIAL', 9, 1, 0));
console.log(asked('RUNNING', 9, 1, 0));
console.log(asked('DONE', undefined, 0, 0));
"""
NNI_MANAGER = """
exports.NNIManager = class {
    updateExperimentProfile(profile) {
        this.experimentProfile.params.maxTrialNumber = profile.params.maxTrialNumber;
    }
};
"""


def test_when_more_trials_may_begin_it_asks_for_as_many_as_can_run(tmp_path: Path) -> None:
    (tmp_path / "core").mkdir()
    (tmp_path / "core" / "nnimanager.js").write_text(NNI_MANAGER)
    said, _ = begun(tmp_path, MANAGER, {"NODE_PATH": str(tmp_path)}).communicate(timeout=60)
    assert said.splitlines() == ["9 2 2", "6 2 1", "9 2 1", "9 2 1", "9 2 0", " 2 2"]
