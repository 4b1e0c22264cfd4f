import pytest

from hybridlm import threads
from hybridlm.errors import InputError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(threads.VARIABLE, raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)


def test_request_beats_environment_beats_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 12)
    assert threads.thread_count() == 12
    monkeypatch.setenv(threads.VARIABLE, "5")
    assert threads.thread_count() == 5
    assert threads.thread_count(3) == 3


def test_ranks_of_one_machine_share_its_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "available_cores", lambda: 12)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "4")
    assert threads.thread_count() == 3
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "16")
    assert threads.thread_count() == 1


@pytest.mark.parametrize("value", ["0", "-2", "many", "1.5"])
def test_nonsense_is_named(monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    monkeypatch.setenv(threads.VARIABLE, value)
    with pytest.raises(InputError, match=r"threads|HYBRIDLM_NUM_THREADS"):
        threads.thread_count()
