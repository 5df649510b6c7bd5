"""A library of another environment, asked for cuts one after the other; its process is started when first needed."""

import json
import os
import subprocess
from pathlib import Path

from autoprune.errors import RunError

SCRIPTS = Path(__file__).parents[1]
LOG_FILE = "worker.log"


class Remote:
    """`scratch` also gets what the library prints. A process that ends, whyever, is started again for the next cut."""

    def __init__(self, python: Path, *, config: Path, peer: str, scratch: Path) -> None:
        self._command = [str(python), "-m", "peers.worker", str(config), peer, str(scratch)]
        self._log = scratch / LOG_FILE
        self._process: subprocess.Popen[str] | None = None

    def write_cut(self, setting: str, knob: float, folder: Path) -> None:
        """Raises `RunError` with the library's reason."""
        if self._process is None:
            self._process = self._started()
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            print(json.dumps({"setting": setting, "knob": knob, "folder": str(folder)}), file=self._process.stdin)
            self._process.stdin.flush()
            answer = self._process.stdout.readline()
        except BrokenPipeError:
            answer = ""
        if not answer:
            self.close()
            printed = self._log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            raise RunError(f"its process ended: {printed[-1] if printed else 'it said nothing'}")
        error = json.loads(answer)["error"]
        if error is not None:
            raise RunError(error)

    def close(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.communicate()

    def _started(self) -> "subprocess.Popen[str]":
        with self._log.open("w", encoding="utf-8") as log:
            return subprocess.Popen(
                self._command,
                # Threads that spin while they wait starve each other on a busy machine; a cut is many tiny steps.
                env={"OMP_WAIT_POLICY": "PASSIVE"} | os.environ | {"PYTHONPATH": str(SCRIPTS)},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
