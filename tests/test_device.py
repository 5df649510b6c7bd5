"""What makes two devices one or two, and processors read from files as Linux writes them."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from autoprune.measure import device as module
from autoprune.measure.device import INSTRUCTION_SETS, Device, cpu_name, this_device
from autoprune.runtimes.onnxruntime import OnnxRuntime, onnxruntime

DEVICE = Device("A CPU (6/85/7)", ("avx2", "fma"), "onnxruntime 1.2.3", "CPUExecutionProvider", 1, 1)
X86 = """processor\t: 0
vendor_id\t: GenuineIntel
cpu family\t: 6
model\t\t: 85
model name\t: Intel(R) Xeon(R) Processor @ 2.50GHz
stepping\t: 7
flags\t\t: fpu sse sse4_2 avx avx2 fma avx512f avx512_vnni brand_new

processor\t: 1
model\t\t: 99
model name\t: Another
flags\t\t: fpu
"""
ARM = """processor\t: 0
BogoMIPS\t: 243.75
Features\t: fp asimd crc32 asimdhp asimddp sve i8mm bf16
CPU implementer\t: 0x41
"""


@pytest.fixture
def cpuinfo(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setattr(module, "CPUINFO", tmp_path / "cpuinfo")
    return tmp_path / "cpuinfo"


def test_the_key_changes_with_every_field() -> None:
    others = [
        replace(DEVICE, cpu="A CPU (6/85/6)"),
        replace(DEVICE, instruction_sets=("avx2",)),
        replace(DEVICE, runtime="onnxruntime 1.2.4"),
        replace(DEVICE, provider="CUDAExecutionProvider"),
        replace(DEVICE, threads=2),
        replace(DEVICE, batch_size=2),
        replace(DEVICE, precision="int8"),
    ]
    assert len({device.key for device in [DEVICE, *others]}) == 8
    assert replace(DEVICE).key == DEVICE.key


def test_a_device_goes_through_json() -> None:
    raw = json.loads(json.dumps(asdict(DEVICE)))
    assert Device(**{**raw, "instruction_sets": tuple(raw["instruction_sets"])}) == DEVICE
    assert json.loads(DEVICE.key) == raw


def test_this_device_is_the_same_each_time() -> None:
    first = this_device(OnnxRuntime(), threads=2, batch_size=4)
    assert first == this_device(OnnxRuntime(), threads=2, batch_size=4)
    assert first.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert (first.provider, first.threads, first.batch_size) == ("CPUExecutionProvider", 2, 4)
    assert first.precision == "fp32"
    assert first.cpu and first.instruction_sets
    assert this_device(OnnxRuntime("X"), threads=2, batch_size=4).key != first.key


def test_an_x86_processor(cpuinfo: Path) -> None:
    """The numbers tell apart what shares a name; flags that choose no kernel do not count."""
    cpuinfo.write_text(X86)
    assert cpu_name() == "Intel(R) Xeon(R) Processor @ 2.50GHz (6/85/7)"
    found = this_device(OnnxRuntime(), threads=1, batch_size=1).instruction_sets
    assert found == ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_vnni")
    cpuinfo.write_text(X86.replace("brand_new", "brand_new newer"))
    assert this_device(OnnxRuntime(), threads=1, batch_size=1).instruction_sets == found


def test_an_arm_processor(cpuinfo: Path) -> None:
    cpuinfo.write_text(ARM)
    assert this_device(OnnxRuntime(), threads=1, batch_size=1).instruction_sets == (
        "asimd", "asimdhp", "asimddp", "i8mm", "bf16", "sve",
    )  # fmt: skip
    assert cpu_name()


def test_a_system_that_tells_nothing(cpuinfo: Path) -> None:
    assert not cpuinfo.exists()
    device = this_device(OnnxRuntime(), threads=1, batch_size=1)
    assert device.cpu
    assert len(device.instruction_sets) == 1
    assert device.instruction_sets[0] not in INSTRUCTION_SETS
