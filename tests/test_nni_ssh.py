"""Trials on another machine, which is this one behind an SSH server of its own: a home of its own, no open port."""

import contextlib
import getpass
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml
from nni_for_tests import NniRun, kill, nni_run

pytest.importorskip("nni")
SSHD = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(SSHD is None, reason="no sshd here; Debian has it in openssh-server"),
]
TRIALS = 6
ENDS_S = 60.0  # NNI tries for 15 s to reach a manager that was killed


@dataclass(frozen=True)
class Host:
    """The other machine."""

    home: Path
    port: int
    key: Path

    def processes(self) -> list[tuple[int, str]]:
        """Those that were begun there, but for the SSH server's own."""
        mark = f"HOME={self.home}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdecimal() and mark in (entry / "environ").read_bytes().split(b"\0"):
                    command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    if command:  # no zombie
                        found.append((int(entry.name), command))
        return found

    def is_quiet(self) -> bool:
        """Whether nothing is left there, after some time in which it may end."""
        deadline = time.monotonic() + ENDS_S
        while self.processes() and time.monotonic() < deadline:
            time.sleep(0.2)
        return not self.processes() and not list(Path("/tmp").glob("autoprune-nni-*"))

    def open_ports(self) -> set[str]:
        """The addresses on which processes there listen."""
        inodes = set()
        for process, _ in self.processes():
            with contextlib.suppress(OSError):
                for file in Path(f"/proc/{process}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        inodes.add(str(file.readlink()).removeprefix("socket:[").removesuffix("]"))
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        rows += [line.split() for line in Path("/proc/net/tcp6").read_text().splitlines()[1:]]
        return {row[1].split(":")[0] for row in rows if row[3] == "0A" and row[9] in inodes}


def free_port() -> int:
    with socket.socket() as tried:
        tried.bind(("127.0.0.1", 0))
        return int(tried.getsockname()[1])


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    folder = tmp_path / "sshd"
    folder.mkdir()
    home = folder / "home"
    home.mkdir()
    for name in ("host", "key"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    port = free_port()
    settings = {
        "Port": port,
        "ListenAddress": "127.0.0.1",
        "HostKey": folder / "host",
        "PidFile": "none",
        "AuthorizedKeysFile": folder / "key.pub",
        "StrictModes": "no",
        "UsePAM": "no",
        "PermitRootLogin": "prohibit-password",
        "PasswordAuthentication": "no",
        "SetEnv": f"HOME={home} OMP_NUM_THREADS=1",
        "Subsystem": "sftp internal-sftp",
    }
    config = folder / "sshd_config"
    config.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
    assert SSHD is not None
    with (folder / "log").open("w") as log, subprocess.Popen([SSHD, "-D", "-e", "-f", str(config)], stderr=log) as sshd:
        try:
            wait_for_port(port, sshd, folder / "log")
            yield Host(home, port, folder / "key")
        finally:
            sshd.terminate()


def wait_for_port(port: int, sshd: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        if sshd.poll() is not None:
            pytest.skip(f"sshd does not run here: {log.read_text().strip()}")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise AssertionError("sshd does not answer")


def config_for(host: Host, folder: Path, tuner: str) -> Path:
    machine = {
        "host": "127.0.0.1",
        "port": host.port,
        "user": getpass.getuser(),
        "sshKeyFile": str(host.key),
        "pythonPath": str(Path(sys.executable).parent),
    }
    path = folder / "toy.yaml"
    nni = {"tuner": tuner, "platform": "remote", "concurrency": 2, "machines": [machine]}
    path.write_text(
        yaml.safe_dump({"problem": "toy", "search": {"agent": "random", "max_evaluations": TRIALS}, "nni": nni})
    )
    return path


def numbers(run: NniRun) -> list[int]:
    return [number for _, number, *_ in run.episodes()]


@pytest.mark.parametrize("tuner", ["TPE", "agent"])
def test_trials_there_are_in_the_store_here(host: Host, tmp_path: Path, tuner: str) -> None:
    with nni_run(tmp_path) as run:
        process = run.start("run", str(config_for(host, tmp_path, tuner)), "--run-dir", str(run.root))
        run.wait_for(1)
        assert host.open_ports() <= {"0100007F"}  # 127.0.0.1
        said, _ = process.communicate(timeout=300)
        assert process.returncode == 0, said
        assert numbers(run) == list(range(1, TRIALS + 1))
        assert (run.root / "policy.json").is_file()
        assert run.left() == []
        assert host.is_quiet(), host.processes()


@pytest.mark.parametrize("which", ["python", "both"])
def test_nothing_is_left_there_after_a_kill_and_it_goes_on(host: Host, tmp_path: Path, which: str) -> None:
    with nni_run(tmp_path) as run:
        process = run.start("run", str(config_for(host, tmp_path, "TPE")), "--run-dir", str(run.root))
        run.wait_for(2)
        kill([process.pid] if which == "python" else [process.pid, run.manager()])
        process.communicate(timeout=60)
        before = run.episodes()
        assert host.is_quiet(), host.processes()
        run.done("resume", str(run.root))
        assert run.episodes()[: len(before)] == before
        assert numbers(run) == list(range(1, TRIALS + 1))
        assert run.left() == []
        assert host.is_quiet(), host.processes()


def test_a_machine_that_does_not_answer_is_named(host: Host, tmp_path: Path) -> None:
    elsewhere = Host(host.home, free_port(), host.key)
    with nni_run(tmp_path) as run:
        process = run.start("run", str(config_for(elsewhere, tmp_path, "TPE")), "--run-dir", str(run.root))
        said, _ = process.communicate(timeout=120)
        assert process.returncode == 1
        assert "ECONNREFUSED" in said
        assert run.left() == []
