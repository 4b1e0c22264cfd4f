import json
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from hybridlm import _core
from hybridlm.errors import FormatError, InputError
from hybridlm.files import (
    atomic_write,
    atomic_write_text,
    check_output,
    exclusive,
    read_bytes,
    read_json,
    write_json,
)


def test_content_appears_only_when_the_block_ends(tmp_path: Path) -> None:
    target = tmp_path / "result.bin"
    with atomic_write(target) as file:
        file.write(b"half")
        file.flush()
        assert not target.exists()
    assert target.read_bytes() == b"half"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.bin"]


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "result.txt"
    atomic_write_text(target, "old")
    with pytest.raises(error), atomic_write(target) as file:
        file.write(b"new")
        raise error
    assert target.read_text() == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["result.txt"]


def test_mode_is_that_of_an_ordinary_file(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    atomic_write_text(tmp_path / "atomic", "x")
    modes = {stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "atomic")}
    assert len(modes) == 1


def test_missing_folder_is_an_os_error(tmp_path: Path) -> None:
    target = tmp_path / "no" / "such" / "file"
    with pytest.raises(FileNotFoundError) as caught:
        atomic_write_text(target, "x")
    assert caught.value.filename == str(target)


def test_a_folder_is_refused_by_its_own_name(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    for refuses in (check_output, lambda path: atomic_write_text(path, "x")):
        with pytest.raises(IsADirectoryError) as caught:
            refuses(folder)
        assert caught.value.filename == str(folder)
    with pytest.raises(InputError, match="there is no folder"):
        check_output(tmp_path / "none" / "file")
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("exists", [True, False])
def test_a_link_stays_and_its_target_is_written(tmp_path: Path, exists: bool) -> None:
    (tmp_path / "real").mkdir()
    target = tmp_path / "real" / "target"
    if exists:
        target.write_text("old")
    link = tmp_path / "link"
    link.symlink_to(Path("real") / "target")
    atomic_write_text(link, "new")
    assert link.is_symlink()
    assert target.read_text() == "new"
    tokens = np.array([1, 5], np.uint16)
    _core.write_shard(str(link), tokens)
    assert link.is_symlink()
    assert (_core.read_shard(str(target)) == tokens).all()


def test_a_circle_of_links_is_the_systems_error(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links"):
        atomic_write_text(tmp_path / "a", "x")
    with pytest.raises(OSError, match="symbolic links"):
        _core.write_shard(str(tmp_path / "a"), np.array([1], np.uint16))


def test_a_fifo_is_written_through(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    tokens = np.array([1, 5], np.uint16)
    wanted = np.concatenate([np.array([20240520, 1, 2] + 253 * [0], "<i4").view(np.uint16), tokens])
    for write, expected in (
        (lambda: atomic_write_text(fifo, "text"), b"text"),
        (lambda: _core.write_shard(str(fifo), tokens), wanted.tobytes()),
    ):
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(fifo.read_bytes)
            write()
            assert reading.result(timeout=20) == expected
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert list(tmp_path.iterdir()) == [fifo]


@pytest.mark.skipif(not Path("/dev/zero").exists(), reason="needs its devices")
def test_a_device_without_an_end_is_not_read_to_it() -> None:
    for device in ("/dev/zero", "/dev/urandom"):
        with pytest.raises(InputError, match=f"{device}: a device, which has no end"):
            read_bytes(device)
    assert read_bytes(os.devnull) == b""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full")
def test_a_full_disk_is_named_with_the_file() -> None:
    before = Path("/dev/full").stat()
    for write in (
        lambda: atomic_write_text("/dev/full", "x"),
        lambda: _core.write_shard("/dev/full", np.array([1], np.uint16)),
    ):
        with pytest.raises(OSError, match="No space left") as caught:
            write()
        assert caught.value.filename == "/dev/full"
    after = Path("/dev/full").stat()
    assert stat.S_ISCHR(after.st_mode)
    assert after.st_ino == before.st_ino


def test_a_write_that_the_system_refuses_names_the_file(tmp_path: Path) -> None:
    target = tmp_path / "large"
    code = (
        "import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000));"
        "from hybridlm.files import atomic_write_bytes; atomic_write_bytes(sys.argv[1], bytes(100_000))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(target)], capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == f"OSError: [Errno 27] File too large: '{target}'"
    assert list(tmp_path.iterdir()) == []


KILLED = """
import os, signal, sys
from hybridlm.files import atomic_write, scratch_folder
with scratch_folder(sys.argv[1]) as folder, atomic_write(sys.argv[1] + "/result") as file:
    (folder / "something").write_bytes(b"half")
    file.write(b"half")
    file.flush()
    if len(sys.argv) > 2:
        print("written", flush=True)
        sys.stdin.read()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_killed_processes_leave_is_swept_and_what_live_ones_write_is_not(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    alive = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), "wait"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert alive.stdout is not None
        alive.stdout.readline()
        living = set(tmp_path.iterdir())
        subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)])
        assert len(living) == len(set(tmp_path.iterdir()) - living) == 3, "a file, and a folder with its lock"
        (tmp_path / ".other.part").touch()
        with caplog.at_level("INFO", logger="hybridlm"):
            check_output(tmp_path / "result")
        assert "removed 2 unfinished results" in caplog.text
        assert set(tmp_path.iterdir()) == {*living, tmp_path / ".other.part"}
    finally:
        alive.kill()
        alive.communicate()
    check_output(tmp_path / "result")
    assert list(tmp_path.iterdir()) == [tmp_path / ".other.part"]


HELD = """
import sys
from hybridlm.files import exclusive
with exclusive(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    path = tmp_path / "out"
    process = subprocess.Popen(
        [sys.executable, "-c", HELD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    process.stdout.readline()
    try:
        with (
            pytest.raises(InputError, match=f"another process, {process.pid}, is at work on it"),
            exclusive(path),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    with exclusive(path), pytest.raises(InputError, match=str(os.getpid())), exclusive(path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_one_process_s_at_a_time(tmp_path: Path) -> None:
    with (
        exclusive(tmp_path, folder=True),
        pytest.raises(InputError, match="write to another folder"),
        exclusive(tmp_path, folder=True),
    ):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_lock_is_the_same_whatever_is_there_by_now(tmp_path: Path) -> None:
    """What a killed process has left of a sparse build is a folder; before it there was nothing."""
    path = tmp_path / "out.unfinished"
    with exclusive(path):
        path.mkdir()
        with pytest.raises(InputError, match="another process"), exclusive(path):
            pass
    with exclusive(path):
        assert list(path.iterdir()) == []
    assert list(tmp_path.iterdir()) == [path]


def test_an_altered_bit_of_json_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    value = {"bpb": 1.25, "names": ["a", "é"], "nested": {"1": None, "true": True}, "large": 2**60}
    write_json(path, value)
    assert read_json(path, 1 << 20) == value
    data = path.read_bytes()
    for at in range(len(data) * 8):
        changed = bytearray(data)
        changed[at // 8] ^= 1 << at % 8
        path.write_bytes(changed)
        try:
            found = read_json(path, 1 << 20)
        except FormatError:
            continue
        # Another layout, or a member of another name in place of the checksum, which anybody sees.
        assert found == value or set(found) - set(value), (at, found)


def test_json_without_a_checksum_and_in_another_layout_is_read(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"b": 1, "a": 2.0}, indent=None)
    checked = json.loads(path.read_text())
    path.write_text(json.dumps(checked, indent=8, sort_keys=True))
    assert read_json(path, 1 << 20) == {"a": 2.0, "b": 1}
    path.write_text('{"a": 3}')
    assert read_json(path, 1 << 20) == {"a": 3}
    path.write_text(json.dumps(checked | {"a": 3}))
    with pytest.raises(FormatError, match=r"x\.json: damaged or altered"):
        read_json(path, 1 << 20)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a": ' + "9" * 5000 + "}", '{"a": 1, "a": 2}', "\xff", ""])
def test_json_that_cannot_be_is_a_format_error(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(FormatError, match=r"x\.json"):
        read_json(path, 1 << 20)
