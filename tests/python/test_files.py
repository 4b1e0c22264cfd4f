import stat
from pathlib import Path

import pytest

from hybridlm.files import atomic_write, atomic_write_text


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
