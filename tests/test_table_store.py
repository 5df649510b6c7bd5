"""The shared table: by device, for two processes at once, and whole whatever kills one of them."""

import contextlib
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from rights_for_tests import as_nobody

from autoprune.errors import InputError
from autoprune.foundation import progress
from autoprune.foundation.files import cache_folder
from autoprune.measure.device import this_device
from autoprune.prediction import lock_holder as lock_holder_module
from autoprune.prediction import table_store
from autoprune.prediction.latency_fit import LatencyFit
from autoprune.prediction.latency_table import LatencyTable
from autoprune.prediction.layer_bench import LayerInGraph
from autoprune.prediction.lock_holder import lock_holder
from autoprune.prediction.table_store import TABLE_VARIABLE, TableStore, default_table_path
from autoprune.pruning.cost import LayerShape
from autoprune.runtimes.onnxruntime import OnnxRuntime

DEVICE = this_device(OnnxRuntime(), threads=1, batch_size=1)
FIT = LatencyFit(0.1, 1.0)
MEASURE = """
import sys
from pathlib import Path
from autoprune.pruning.cost import LayerShape
from autoprune.runtimes.onnxruntime import OnnxRuntime
from autoprune.measure.device import this_device
from autoprune.prediction.latency_table import LatencyTable
from autoprune.prediction.layer_bench import LayerInGraph
from autoprune.prediction.table_store import TableStore
import autoprune.prediction.latency_table
autoprune.prediction.latency_table.CHUNK = 8
device = this_device(OnnxRuntime(), threads=1, batch_size=1)
store = TableStore(Path(sys.argv[1]), device.key)
table = LatencyTable(OnnxRuntime(), device, store.layers(), lambda: store)
print("ready", flush=True)
table.ensure(
    LayerInGraph(LayerShape("conv", 4, width, (3, 3), (1, 1), (1, 1), (1, 1), 1, (9, 9), (9, 9), False))
    for width in range(1, int(sys.argv[2]) + 1)
)
print(sorted(table.entries.values()), flush=True)
"""


def fit_of(ms: float) -> LatencyFit:
    return LatencyFit(ms, 1.0)


def layer(width: int) -> LayerInGraph:
    return LayerInGraph(LayerShape("conv", 4, width, (3, 3), (1, 1), (1, 1), (1, 1), 1, (9, 9), (9, 9), False))


def start(path: Path, widths: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", MEASURE, str(path), str(widths)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_processes_share_one_measurement(tmp_path: Path) -> None:
    both = [start(tmp_path / "table.sqlite", 24) for _ in range(2)]
    shown = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], shown
    assert shown[0][0] == shown[1][0]
    assert len(TableStore(tmp_path / "table.sqlite", DEVICE.key).layers()) == 24


def test_a_killed_process_leaves_what_it_finished(tmp_path: Path) -> None:
    path = tmp_path / "table.sqlite"
    process = start(path, 400)
    assert process.stdout is not None and process.stdout.readline() == "ready\n"
    deadline = time.monotonic() + 120
    while not (kept := TableStore(path, DEVICE.key).layers()) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    after = TableStore(path, DEVICE.key).layers()
    assert kept and kept.items() <= after.items() and len(after) % 8 == 0 and len(after) < 400
    table = LatencyTable(OnnxRuntime(), DEVICE, after, lambda: TableStore(path, DEVICE.key))
    table.ensure([layer(width) for width in range(1, 9)])
    assert {layer(width): table.entries[layer(width)] for width in range(1, 9)}.items() <= after.items()


def test_devices_are_never_mixed(tmp_path: Path) -> None:
    path = tmp_path / "table.sqlite"
    others = [replace(DEVICE, cpu="another"), replace(DEVICE, threads=2), replace(DEVICE, runtime="onnxruntime 0.1")]
    with TableStore(path, DEVICE.key).measuring() as recorder:
        recorder.add({layer(1): 0.25})
        recorder.add_fit("model", FIT)
    for other in others:
        store = TableStore(path, other.key)
        assert store.layers() == {}
        assert store.fit("model") is None
    assert TableStore(path, DEVICE.key).layers() == {layer(1): 0.25}
    assert TableStore(path, DEVICE.key).fit("model") == FIT


def test_what_fails_midway_is_not_kept(tmp_path: Path) -> None:
    store = TableStore(tmp_path / "table.sqlite", DEVICE.key)
    with pytest.raises(RuntimeError, match="midway"), store.measuring() as recorder:
        recorder.add({layer(1): 0.25})
        raise RuntimeError("midway")
    assert store.layers() == {}


def test_a_file_that_is_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "text.sqlite").write_text("no table, but long enough for a header of SQLite" * 50)
    with pytest.raises(InputError, match=r"text\.sqlite: not a latency table, or a broken one .*delete the file"):
        TableStore(tmp_path / "text.sqlite", DEVICE.key)
    with sqlite3.connect(tmp_path / "other.sqlite") as connection:
        connection.execute("CREATE TABLE accounts (name TEXT)")
    with pytest.raises(InputError, match=r"other\.sqlite: an SQLite file, but not a latency table"):
        TableStore(tmp_path / "other.sqlite", DEVICE.key)
    TableStore(tmp_path / "newer.sqlite", DEVICE.key)
    with sqlite3.connect(tmp_path / "newer.sqlite") as connection:
        connection.execute("PRAGMA user_version = 7")
    with pytest.raises(InputError, match=r"newer\.sqlite: a latency table of format 7"):
        TableStore(tmp_path / "newer.sqlite", DEVICE.key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE layers SET ms = 'fast'", "table layers, row .*: ms is broken .'fast'."),
        ("UPDATE layers SET ms = -1", "table layers, row .*: ms is broken .-1.0."),
        ("UPDATE layers SET ms = 9e999", "table layers, row .*: ms is broken .inf."),
        ("UPDATE layers SET layer = '[1]'", r"table layers, row '\[1\]': layer is broken"),
        ("UPDATE layers SET layer = '{}'", "table layers, row '{}': layer is broken"),
        ("UPDATE layers SET layer = x'00'", "table layers, row .*: layer is broken"),
        ("UPDATE fits SET fit = '{}'", "table fits, row 'model': fit is broken"),
        ("UPDATE fits SET fit = replace(fit, '1.0', 'NaN')", "table fits, row 'model': fit is broken"),
        ("UPDATE fits SET fit = 3", "table fits, row 'model': fit is broken"),
    ],
)
def test_a_broken_row_is_named(tmp_path: Path, change: str, message: str) -> None:
    path = tmp_path / "table.sqlite"
    with TableStore(path, DEVICE.key).measuring() as recorder:
        recorder.add({layer(1): 0.25})
        recorder.add_fit("model", FIT)
    with contextlib.closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(change)
    store = TableStore(path, DEVICE.key)
    with pytest.raises(InputError, match=message):
        store.fit("model")
        store.layers()
    with pytest.raises(InputError, match=message), store.measuring() as recorder:
        recorder.fit("model")
        store.layers()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a lock in vain fails at once instead of in a quarter of an hour."""
    monkeypatch.setattr(table_store, "LOCK_TIMEOUT_S", 0.1)


@pytest.mark.usefixtures("impatient")
def test_readers_do_not_wait_for_a_measurement(tmp_path: Path) -> None:
    """They see what was stored before it; another measurement waits, and says for what."""
    path = tmp_path / "table.sqlite"
    with TableStore(path, DEVICE.key).measuring() as recorder:
        recorder.add({layer(1): 0.5})
        recorder.add_fit("a model", FIT)
    with TableStore(path, DEVICE.key).measuring() as recorder:
        recorder.add({layer(2): 0.25})
        reader = TableStore(path, DEVICE.key)
        assert reader.layers() == {layer(1): 0.5}
        assert reader.fit("a model") == FIT
        with pytest.raises(InputError, match=r"table\.sqlite: .*locked"), reader.measuring():
            pass
    assert reader.layers() == {layer(1): 0.5, layer(2): 0.25}


def test_who_waits_finds_what_was_measured_meanwhile(tmp_path: Path) -> None:
    """A time that no measurement gives."""
    store = TableStore(tmp_path / "table.sqlite", DEVICE.key)
    table = LatencyTable(OnnxRuntime(), DEVICE, {}, lambda: store)
    waiting = threading.Thread(target=table.ensure, args=([layer(1), layer(2)],))
    with store.measuring() as recorder:
        recorder.add({layer(1): 1e6})
        waiting.start()
        waiting.join(timeout=0.5)
        assert waiting.is_alive()
        assert table.entries == {}
    waiting.join(timeout=300)
    assert table.entries[layer(1)] == 1e6
    assert table.entries[layer(2)] >= 0
    assert store.layers() == table.entries


def test_many_may_open_a_new_table_at_once(tmp_path: Path) -> None:
    """Whoever comes second finds a whole table, not half of one."""
    errors: list[Exception] = []
    barrier = threading.Barrier(4)

    def open_all() -> None:
        for index in range(25):
            barrier.wait()
            try:
                TableStore(tmp_path / f"{index}.sqlite", DEVICE.key).layers()
            except Exception as error:
                errors.append(error)

    threads = [threading.Thread(target=open_all) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def test_what_is_recorded_comes_back(tmp_path: Path) -> None:
    store = TableStore(tmp_path / "new" / "table.sqlite", DEVICE.key)
    assert (store.layers(), store.fit("a")) == ({}, None)
    with store.measuring() as recorder:
        assert recorder.known([layer(1), layer(2)]) == {}
        recorder.add({layer(1): 0.1 + 0.2, layer(2): 1e-6})
        recorder.add_fit("a", FIT)
        assert recorder.known([layer(2), layer(3)]) == {layer(2): 1e-6}
    assert TableStore(store.path, DEVICE.key).layers() == {layer(1): 0.1 + 0.2, layer(2): 1e-6}
    assert (store.fit("a"), store.fit("b")) == (FIT, None)


def test_another_method_shares_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor do two devices that measure the same layer; all stand in one file."""
    path, other = tmp_path / "table.sqlite", replace(DEVICE, batch_size=2)
    for device, ms in ((DEVICE, 1.0), (other, 2.0)):
        with TableStore(path, device.key).measuring() as recorder:
            assert recorder.known([layer(1)]) == {}
            recorder.add({layer(1): ms})
            recorder.add_fit("model", fit_of(ms))
    monkeypatch.setattr(table_store, "METHOD", table_store.METHOD + 1)
    newer = TableStore(path, DEVICE.key)
    assert (newer.layers(), newer.fit("model")) == ({}, None)
    monkeypatch.undo()
    for device, ms in ((DEVICE, 1.0), (other, 2.0)):
        store = TableStore(path, device.key)
        assert (store.layers(), store.fit("model")) == ({layer(1): ms}, fit_of(ms))
    assert [file.name for file in tmp_path.iterdir()] == ["table.sqlite"]


@pytest.mark.parametrize("version", [0, 1, 7])
def test_the_database_of_another_program_is_kept(version: int, tmp_path: Path) -> None:
    """Nobody is told to delete it."""
    path = tmp_path / "trials.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE mine (x)")
        connection.execute(f"PRAGMA user_version = {version}")
    before = path.read_bytes()
    expected = rf"trials\.sqlite: an SQLite file, but not a latency table; name another file in {TABLE_VARIABLE}$"
    with pytest.raises(InputError, match=expected):
        TableStore(path, DEVICE.key)
    assert path.read_bytes() == before


def test_a_broken_table_is_named(tmp_path: Path) -> None:
    path = tmp_path / "table.sqlite"
    with TableStore(path, DEVICE.key).measuring() as recorder:
        recorder.add({layer(width): 1.0 for width in range(1, 200)})
    content = path.read_bytes()
    path.write_bytes(content[:4096] + bytes(len(content) - 4096))
    with pytest.raises(InputError, match=r"table\.sqlite: .*malformed.*; delete the file"):
        TableStore(path, DEVICE.key).layers()


def test_an_empty_file_becomes_a_table(tmp_path: Path) -> None:
    (tmp_path / "table.sqlite").touch()
    assert TableStore(tmp_path / "table.sqlite", DEVICE.key).layers() == {}


def test_a_place_that_can_hold_no_table_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(InputError, match=rf"table\.sqlite: its folder cannot be made.*{TABLE_VARIABLE}"):
        TableStore(tmp_path / "file" / "table.sqlite", DEVICE.key)
    with pytest.raises(InputError, match=rf"cannot be used as a latency table \(unable to open.*{TABLE_VARIABLE}"):
        TableStore(tmp_path, DEVICE.key)


def test_a_folder_without_the_right_to_write_is_named() -> None:
    """A table in it is read all the same, if it knows the device."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        TableStore(folder / "old.sqlite", DEVICE.key)
        folder.chmod(0o555)
        (folder / "old.sqlite").chmod(0o444)
        try:
            with as_nobody():
                with pytest.raises(InputError, match=rf"new\.sqlite: .*unable to open.*{TABLE_VARIABLE}"):
                    TableStore(folder / "new.sqlite", DEVICE.key)
                with pytest.raises(InputError, match=r"new\.sqlite: its folder cannot be made \(Permission denied\)"):
                    TableStore(folder / "folder" / "new.sqlite", DEVICE.key)
                assert TableStore(folder / "old.sqlite", DEVICE.key).layers() == {}
                with pytest.raises(InputError, match=rf"old\.sqlite: .*readonly.*{TABLE_VARIABLE}"):
                    TableStore(folder / "old.sqlite", replace(DEVICE, threads=9).key)
        finally:
            folder.chmod(0o755)


def test_where_the_table_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(TABLE_VARIABLE, str(tmp_path / "named.db"))
    assert default_table_path() == tmp_path / "named.db"
    monkeypatch.delenv(TABLE_VARIABLE)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert default_table_path() == tmp_path / "cache" / "autoprune" / "latency.sqlite"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_table_path() == cache_folder() / "latency.sqlite" == tmp_path / ".cache/autoprune/latency.sqlite"


def test_who_waits_says_for_whom(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Another process holds the lock for two seconds, then this one gets it."""
    path = tmp_path / "latency.sqlite"
    store = TableStore(path, DEVICE.key)
    with holding(path, seconds=2.0) as holder:
        progress.show(True)
        try:
            with store.measuring() as recorder:
                recorder.add({layer(3): 1.0})
        finally:
            progress.show(False)
    said = capsys.readouterr().err
    named = f"process {holder.pid} (" if sys.platform == "linux" else "another process"
    assert said.startswith(f"{path}: waiting for {named}")
    assert "which measures into it, 15 minutes at most" in said
    assert len(said.splitlines()) == 1
    assert store.layers() == {layer(3): 1.0}


def test_a_lock_that_never_ends_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_store, "LOCK_TIMEOUT_S", 0.2)
    path = tmp_path / "latency.sqlite"
    store = TableStore(path, DEVICE.key)
    with holding(path, seconds=60.0) as holder:
        message = r"database is locked by .* stop it, or name another file in"
        with pytest.raises(InputError, match=message) as caught, store.measuring():
            pass
        if sys.platform == "linux":
            assert f"process {holder.pid} (" in str(caught.value)
        with pytest.raises(InputError, match="database is locked by"):
            TableStore(path, replace(DEVICE, threads=2).key)


HOLD = """
import sqlite3, sys, time
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("held", flush=True)
time.sleep(float(sys.argv[2]))
connection.execute("COMMIT")
"""


@contextlib.contextmanager
def holding(path: Path, *, seconds: float) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path), str(seconds)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize(
    "lines",
    [
        "",
        "nonsense",
        "1: POSIX  ADVISORY  READ 77 fe:00:{inode} 1073741826 1073742335",  # of a reader
        "1: POSIX  ADVISORY  WRITE 77 fe:00:{inode} 128 128",
        "1: POSIX  ADVISORY  WRITE 77 fe:00:1{inode} 1073741825 1073741825",  # of another file
        "1: POSIX  ADVISORY  WRITE 0 fe:00:{inode} 1073741825 1073741825",  # a process that is not seen from here
        "1: -> POSIX  ADVISORY  WRITE 77 fe:00:{inode} 1073741825 1073741825",  # one that waits, too
    ],
)
def test_a_holder_that_cannot_be_told_is_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str
) -> None:
    path, locks = tmp_path / "latency.sqlite", tmp_path / "locks"
    path.touch()
    locks.write_text(lines.format(inode=path.stat().st_ino))
    monkeypatch.setattr(lock_holder_module, "LOCKS", locks)
    assert lock_holder(path) == "another process"
    assert lock_holder(tmp_path / "missing") == "another process"


def test_long_commands_are_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, locks = tmp_path / "latency.sqlite", tmp_path / "locks"
    path.touch()
    locks.write_text(f"1: POSIX  ADVISORY  WRITE 77 fe:00:{path.stat().st_ino} 1073741824 EOF\n")
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "cmdline").write_bytes(b"autoprune\0run\0\x1b[31m\0" + b"x" * 500)
    monkeypatch.setattr(lock_holder_module, "LOCKS", locks)
    monkeypatch.setattr(lock_holder_module, "PROCESSES", tmp_path)
    assert lock_holder(path) == "process 77 (autoprune run [31m " + "x" * 81 + "...)"
