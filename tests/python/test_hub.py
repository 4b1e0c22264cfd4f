"""`hybridlm data fetch`, with the hub's library but without its network."""

from pathlib import Path
from typing import Any

import pytest

from hybridlm.cli.main import main
from hybridlm.data.hub import fetch
from hybridlm.errors import InputError

hub = pytest.importorskip("huggingface_hub")


class Api:
    """The two calls that are used of the hub's."""

    def list_repo_files(self, name: str, *, repo_type: str, revision: str) -> list[str]:
        assert (name, repo_type, revision) == ("owner/set", "dataset", "v1")
        return ["b/train_1.jsonl.zst", "b/train_0.jsonl.zst", "README.md"]

    def hf_hub_download(
        self, name: str, file: str, *, repo_type: str, revision: str, local_dir: Path
    ) -> None:
        path = local_dir / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file)


def test_files_that_match_are_fetched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "HfApi", Api)
    found = fetch("owner/set", tmp_path, ["b/*.zst"], "v1")
    assert found == [tmp_path / "b" / f"train_{index}.jsonl.zst" for index in range(2)]
    assert all(path.is_file() for path in found) and not (tmp_path / "README.md").exists()
    with pytest.raises(InputError, match=r"none of its 3 files matches \*\.parquet; among them are README"):
        fetch("owner/set", tmp_path, ["*.parquet"], "v1")


def test_what_cannot_be_fetched_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Unreachable(Api):
        def list_repo_files(self, *_: Any, **__: Any) -> list[str]:
            raise ConnectionError("no route")

    monkeypatch.setattr(hub, "HfApi", Unreachable)
    assert main(["data", "fetch", "owner/set", "-o", str(tmp_path / "out")]) == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1 and "owner/set: can't be fetched from https" in message
    assert "without a network" in message and not (tmp_path / "out").exists()
    assert main(["data", "fetch", "set", "-o", str(tmp_path)]) == 1
    assert "OWNER/NAME" in capsys.readouterr().err
    monkeypatch.setattr("hybridlm.extras.installed", lambda package: package != "huggingface_hub")
    with pytest.raises(InputError, match=r"needs huggingface_hub.*hybridlm\[hub\]"):
        fetch("owner/set", tmp_path, ["*"])
