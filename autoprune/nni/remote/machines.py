"""The machines that a configuration names, as NNI takes them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from autoprune.config import NniConfig
from autoprune.errors import ConfigError, shown
from autoprune.nni.algorithms import require_nni
from autoprune.nni.remote.keeper import PYTHON

PRELOAD = Path(__file__).with_name("ssh.js")
DATA = "data"  # ours: data.name on that machine
SECRETS = ("password", "sshPassphrase")  # would stand in config.yaml and on NNI's page
TRIAL_COMMAND = f'"${PYTHON}" -m autoprune.nni.trial --recipe .'  # where NNI has unpacked what the run left


def check_machines(nni: NniConfig) -> None:
    """Raises `ConfigError`, naming the machine, for one that NNI does not take."""
    if nni.platform != "remote":
        if nni.machines:
            raise ConfigError("nni.machines: are for nni.platform=remote")
        return
    if not nni.machines:
        raise ConfigError("nni.machines: none is named; give a list of {host, user, sshKeyFile, pythonPath}")
    remote = require_nni().experiment.config.training_services.remote
    for number, machine in enumerate(nni.machines):
        where = f"nni.machines[{number}]"
        if told := [name for name in SECRETS if name in machine]:
            raise ConfigError(
                f"{where}.{told[0]}: would be written to the run's config.yaml; give sshKeyFile, a key without one"
            )
        if not isinstance(machine.get(DATA, ""), str):
            raise ConfigError(f"{where}.{DATA}: must be a text, as data.name is, got {shown(machine[DATA])}")
        try:
            config = remote.RemoteMachineConfig(**_of_nni(machine))
            config._base_path = Path.cwd()
            config._canonicalize([])
            config._validate_canonical()
        except Exception as error:  # NNI raises whatever it likes
            raise ConfigError(f"{where}: {' '.join(str(error).split())}") from None


def training_service(nni: NniConfig) -> Mapping[str, Any]:
    """As NNI's configuration of an experiment has it."""
    if nni.platform == "local":
        return {"platform": "local", "useActiveGpu": False}
    return {"platform": "remote", "machineList": [_of_nni(machine) for machine in nni.machines]}


def environment(nni: NniConfig, port: int) -> dict[str, str]:
    """What `ssh.js` goes by; nothing where trials run on this machine."""
    if nni.platform != "remote":
        return {}
    named = {
        f"{machine['user']}@{machine['host']}:{machine.get('port', 22)}": machine[DATA]
        for machine in nni.machines
        if DATA in machine
    }
    return {"AUTOPRUNE_NNI_PORT": str(port), "AUTOPRUNE_NNI_DATA": json.dumps(named)}


def _of_nni(machine: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in machine.items() if name != DATA}
