from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from hybridlm.config import as_dict, load_preset, preset_names, readable, resolve
from hybridlm.errors import InputError
from hybridlm.train.config import TrainConfig


@dataclass(frozen=True)
class Inner:
    slope: float = field(default=0.5, metadata={"environment": "SLOPE"})
    kind: Literal["sgd", "adamw"] = field(default="sgd", metadata={"environment": "KIND"})


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    steps: int | None = None
    fast: bool = field(default=False, metadata={"environment": "FAST"})
    folder: Path = Path("here")


@pytest.fixture
def preset(tmp_path: Path) -> str:
    path = tmp_path / "mine.toml"
    path.write_text('steps = 7\nfolder = "there"\n[inner]\nslope = 1\n')
    return str(path)


def test_layers_in_order(preset: str) -> None:
    assert resolve(Outer, None, {}) == Outer()
    assert resolve(Outer, preset, {}) == Outer(Inner(slope=1.0), steps=7, folder=Path("there"))
    resolved = resolve(Outer, preset, {"SLOPE": "0.75", "KIND": "adamw", "FAST": "1"})
    assert resolved == Outer(Inner(0.75, "adamw"), steps=7, fast=True, folder=Path("there"))


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("stepz = 1", "stepz"),
        ("steps = 'many'", "steps"),
        ("steps = true", "steps"),
        ("inner = 3", "inner"),
        ("[inner]\nkind = 'lion'", "inner.kind"),
        ("[inner]\nslop = 1", "inner.slop"),
        ("steps = = 1", "TOML"),
    ],
)
def test_bad_presets_name_the_setting(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=named):
        resolve(Outer, str(path), {})


@pytest.mark.parametrize(("name", "value"), [("SLOPE", "steep"), ("KIND", "lion"), ("FAST", "maybe")])
def test_bad_environment_names_the_variable(name: str, value: str) -> None:
    with pytest.raises(InputError, match=name):
        resolve(Outer, None, {name: value})


def test_unknown_preset_lists_those_there_are() -> None:
    with pytest.raises(InputError, match="tiny"):
        load_preset("huge")
    assert {"tiny", "kaggle", "full"} <= set(preset_names())


def test_as_dict_is_plain_and_nested() -> None:
    assert as_dict(Outer()) == {
        "inner": {"slope": 0.5, "kind": "sgd"},
        "steps": None,
        "fast": False,
        "folder": "here",
    }


def test_settings_are_printed_as_paragraphs_that_hold_every_one() -> None:
    settings = as_dict(TrainConfig())
    text = readable(settings, width=80)
    assert max(map(len, text.splitlines())) <= 80
    words = " ".join(text.split())
    for name, value in settings.items():
        if isinstance(value, dict):
            assert f"{name}: " in words
            assert all(f"{inner} " in words for inner in value)
        else:
            assert f"{name} " in words
    assert "compile off" in words and "qk_norm on" in words and "oracle unset" in words
    assert "embedding_std 0.005" in words and "{" not in words
