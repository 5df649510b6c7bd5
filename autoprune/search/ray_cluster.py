"""Where Ray runs: a cluster of this process alone, or one that is there; looked at before any long work."""

import contextlib
import importlib
import importlib.util
import multiprocessing
import os
import secrets
import socket
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch

from autoprune import __version__
from autoprune.compute.processes import usual_workers
from autoprune.config import WorkersConfig
from autoprune.errors import AutopruneError, ConfigError, InputError, RunError
from autoprune.foundation.guard import guarded, processes_below

SINGLE = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"  # 0, on any system: machines beside this one are not expected
LOOPBACK = "127.0.0.1"
CONNECT_S, ANSWER_S = 5.0, 20.0  # Ray itself tries for 80 s, and then ends the process
CHECK_S = 300.0  # importing torch on a busy machine takes a while
LONGEST_REASON = 400  # characters of an error of Ray's, which ends with what happened


@dataclass(frozen=True)
class Cluster:
    """Who scores the candidates of a search: so many workers of Ray. `address`: HOST:PORT of a cluster, on one of whose
    machines this process runs; None: a cluster of its own, which others cannot reach."""

    workers: WorkersConfig
    address: str | None = None

    @property
    def needs(self) -> dict[str, Any]:
        """What Ray sets aside for each worker."""
        label = self.workers.resource
        resources = {} if label is None else {label: 0.001}  # so many may share it
        return {"num_cpus": self.workers.cpus, "num_gpus": self.workers.gpus, "resources": resources}

    @property
    def worker(self) -> str:
        """The same in words."""
        label = "" if self.workers.resource is None else f", with the resource {self.workers.resource!r}"
        return f"a worker of {self.workers.cpus:g} CPUs and {self.workers.gpus:g} GPUs{label}"

    def count(self, ray: Any) -> int:
        """How many workers: those asked for, or as many as there are processors for."""
        cpus = usual_workers() if self.address is None else sum(node.get("CPU", 0) for node in self._machines(ray))
        return self.workers.count or max(1, int(cpus / self.workers.cpus))

    def machines(self, ray: Any) -> list[str]:
        """The machines, by Ray's names, that could hold a worker."""
        return [node["id"] for node in self._machines(ray)]

    def _machines(self, ray: Any) -> list[dict[str, Any]]:
        wanted = {"CPU": self.workers.cpus, "GPU": self.workers.gpus, **self.needs["resources"]}
        alive = [{"id": node["NodeID"], **node["Resources"]} for node in ray.nodes() if node["Alive"]]
        return [node for node in alive if all(node.get(name, 0) >= amount for name, amount in wanted.items())]


def require_ray() -> None:
    """Raises `ConfigError` that names the extra if it is not installed; nothing is imported yet."""
    with contextlib.suppress(ValueError):  # one that was put out of reach
        if importlib.util.find_spec("ray") is not None:
            return
    raise ConfigError("--executor ray: needs Ray; install it with `pip install autoprune[ray]`")


@contextlib.contextmanager
def connected(cluster: Cluster) -> Iterator[Any]:
    """The module `ray`, connected to the cluster while the block runs. One of this process alone listens on the
    loopback address only, asks for a token of its own, and ends with the block, or with this process."""
    with contextlib.ExitStack() as stack:
        if cluster.address is None:
            others = processes_below(os.getpid())
            ray = _started(cluster)
            # Most of its processes end with this one; two try to reach the others for a minute.
            stack.enter_context(guarded(processes_below(os.getpid()) - others))
        else:
            ray = importlib.import_module("ray")
            ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
        stack.callback(ray.shutdown)
        yield ray


def _started(cluster: Cluster) -> Any:
    """Ray, with a cluster of this process alone."""
    exposed = RunError(
        f"Ray was imported before autoprune could keep it to this machine; import it later, or set {SINGLE}=0 before "
        "Python starts"
    )
    if "ray" in sys.modules and os.environ.get(SINGLE) != "0":
        raise exposed
    os.environ[SINGLE] = "0"
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))  # otherwise one is kept in the home folder
    ray = importlib.import_module("ray")
    workers = cluster.workers
    found = ray.init(
        address="local",
        num_cpus=max(1, round(cluster.count(ray) * workers.cpus)),
        num_gpus=None if workers.gpus else 0,
        resources={} if workers.resource is None else {workers.resource: 1},
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _system_config={"worker_niceness": 0},  # not 15 more than this process: they are what it waits for
        _node_ip_address=LOOPBACK,
        _temp_dir=tempfile.gettempdir(),  # of jobs, a folder that goes with them
    )
    if found.address_info["node_ip_address"] != LOOPBACK:
        ray.shutdown()
        raise exposed
    return ray


def check_cluster(cluster: Cluster, check: Callable[[], None]) -> None:
    """Raises `InputError` for what workers would fail for later: Ray is not there or does not answer, no machine has
    room for one, or `check`, which can be pickled, raises one on a machine that has."""
    require_ray()
    if cluster.address is not None:
        _check_remote(cluster, cluster.address, check)
    elif (gpus := torch.cuda.device_count()) < cluster.workers.gpus:
        raise InputError(f"workers.gpus={cluster.workers.gpus:g}: PyTorch finds {gpus} GPUs here")


def _check_remote(cluster: Cluster, address: str, check: Callable[[], None]) -> None:
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 2**16:
        raise InputError(f"--address {address}: expected HOST:PORT, as `ray start --head` prints it")
    try:
        socket.create_connection((host, int(port)), CONNECT_S).close()
    except OSError as error:
        raise InputError(f"--address {address}: nothing answers there ({error}); is the cluster up?") from None
    # In a process of its own: one that cannot connect is ended by Ray, and one that has connected should not be forked.
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=_try, args=(theirs, cluster, check), daemon=True)
    process.start()
    theirs.close()
    try:
        for patience_s, what in ((ANSWER_S, "Ray does not answer there"), (CHECK_S, "its machines do not answer")):
            told: Any = what
            if ours.poll(patience_s):
                with contextlib.suppress(EOFError):  # the process has ended
                    told = ours.recv()
            if isinstance(told, AutopruneError):
                raise told
            if told is not None:
                raise InputError(
                    f"--address {address}: {told}; autoprune runs on a machine of the cluster (`ray start --address "
                    "HOST:PORT`), with the same versions of Python and Ray"
                )
    finally:
        process.kill()
        process.join()


def _try(told: Connection, cluster: Cluster, check: Callable[[], None]) -> None:
    """Tells `None` once connected and once checked, else what is wrong."""
    for stream in (1, 2):  # Ray's own words
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream)
    try:
        with connected(cluster) as ray:
            told.send(None)
            machines = cluster.machines(ray)
            if not machines:
                told.send(InputError(f"--address {cluster.address}: no machine there has room for {cluster.worker}"))
                return
            on = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy
            task = ray.remote(num_cpus=0, max_retries=0)(_fault)
            asked = (check, __version__, Path.cwd())
            refs = [task.options(scheduling_strategy=on(name, soft=False)).remote(*asked) for name in machines]
            faults = [fault for fault in ray.get(refs) if fault is not None]
            told.send(InputError(faults[0]) if faults else None)
    except Exception as error:
        told.send(" ".join((type(error).__name__, *str(error).split()))[-LONGEST_REASON:])


def go_to(folder: Path) -> None:
    """Where it is there, relative names mean what they mean to whoever began the search."""
    with contextlib.suppress(OSError):
        os.chdir(folder)


def _fault(check: Callable[[], None], version: str, folder: Path) -> str | None:
    """What is wrong on the machine that runs this."""
    go_to(folder)
    fault = None if version == __version__ else f"autoprune is {__version__} there, and {version} here"
    try:
        check()
    except AutopruneError as error:
        fault = str(error)
    return fault and f"a worker on {socket.gethostname()}: {fault}"
