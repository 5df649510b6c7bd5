"""ONNX Runtime's telemetry is off wherever we start it: nothing of it is written, and no host is looked up."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import onnx
import pytest
from test_architecture import SOURCES, imports

from autoprune.runtimes.onnxruntime import TELEMETRY_SWITCH

LOOKS_UP_AFTER_S = 9  # from its import, measured
OWN_IMPORT = {"autoprune.runtimes.onnxruntime"}


@pytest.fixture
def model(tmp_path: Path) -> Path:
    value = onnx.helper.make_tensor_value_info
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["images"], ["logits"])],
        "relu",
        [value("images", onnx.TensorProto.FLOAT, ["batch", 4])],
        [value("logits", onnx.TensorProto.FLOAT, ["batch", 4])],
    )
    opset = onnx.helper.make_opsetid("", 17)
    onnx.save(onnx.helper.make_model(graph, opset_imports=[opset], ir_version=8), tmp_path / "relu.onnx")
    return tmp_path / "relu.onnx"


def own_environment(folder: Path) -> dict[str, str]:
    """A home and a temporary folder of its own, and nothing that has been switched off before."""
    found = {name: value for name, value in os.environ.items() if not name.startswith(("ORT_", "XDG_"))}
    for name in ("HOME", "TMPDIR"):
        (folder / name).mkdir()
        found[name] = str(folder / name)
    return found


def left_by_telemetry(folder: Path) -> list[str]:
    files = [path for name in ("HOME", "TMPDIR") for path in (folder / name).rglob("*")]
    return sorted(path.name for path in files if path.name == ".ses" or "Microsoft" in path.parts)


def test_no_other_module_imports_it() -> None:
    """In a module that did, telemetry would depend on who was imported first."""
    wrong = {
        name
        for name, source in SOURCES.items()
        for _, target in imports(name, source)
        if target.split(".")[0] == "onnxruntime" and name not in OWN_IMPORT
    }
    assert wrong == set()


PROGRAMS = {
    "the import alone": "import autoprune.runtimes.onnxruntime",
    "a session": "from autoprune.runtimes.onnxruntime import make_session; make_session(Path(sys.argv[1]), threads=1)",
    "the memory of a file": "from autoprune.measure.memory import measure_peak_rss_bytes; "
    "measure_peak_rss_bytes(sys.argv[1], (1, 4), runtime='onnxruntime', threads=1)",
    "an actor": "import autoprune.policies.actor",
    "an adaptive session": "import autoprune.adaptive.file.session",
}


@pytest.mark.parametrize("program", PROGRAMS.values(), ids=PROGRAMS)
@pytest.mark.parametrize("before", [None, "0"], ids=["not set", "set to 0"])
def test_nothing_is_written(model: Path, tmp_path: Path, program: str, before: str | None) -> None:
    environment = own_environment(tmp_path) | ({} if before is None else {TELEMETRY_SWITCH: before})
    command = [sys.executable, "-c", f"import sys; from pathlib import Path; {program}", str(model)]
    subprocess.run(command, env=environment, check=True)
    assert left_by_telemetry(tmp_path) == []


def test_without_the_switch_it_would_be(model: Path, tmp_path: Path) -> None:
    """What the test above looks for is what ONNX Runtime leaves; a build without telemetry leaves nothing."""
    command = [sys.executable, "-c", "import onnxruntime, sys; onnxruntime.InferenceSession(sys.argv[1])", str(model)]
    subprocess.run(command, env=own_environment(tmp_path), check=True)
    if not left_by_telemetry(tmp_path):
        pytest.skip("this build of ONNX Runtime has no telemetry")


@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
def test_no_socket_is_made_by_a_command(model: Path, tmp_path: Path) -> None:
    """Its child that measures memory included; for longer than the runtime waits before it looks its host up."""
    log = tmp_path / "log"
    traced = ["strace", "-f", "-e", "trace=socket,connect", "-o", str(log)]
    command = [sys.executable, "-m", "autoprune.cli", "bench", str(model), "--seconds", str(LOOKS_UP_AFTER_S + 2)]
    done = subprocess.run([*traced, *command], env=own_environment(tmp_path), capture_output=True, check=False)
    if b"ptrace" in done.stderr.lower():
        pytest.skip("tracing is not allowed here")
    assert done.returncode == 0, done.stderr
    calls = [line for line in log.read_text(encoding="utf-8").splitlines() if "AF_INET" in line or "nscd" in line]
    assert calls == []
    assert left_by_telemetry(tmp_path) == []
