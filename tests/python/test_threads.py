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


@pytest.mark.parametrize("value", ["0", "-2", "many", "1.5", ""])
def test_nonsense_in_place_of_what_torchrun_sets_is_named(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", value)
    with pytest.raises(InputError, match=f"LOCAL_WORLD_SIZE={value!r} in the environment: it must be"):
        threads.thread_count()


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"RANK": "x"}, "RANK='x' in the environment"),
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE='x' in the environment"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE='0' in the environment"),
        ({"LOCAL_RANK": "-1"}, "LOCAL_RANK='-1' in the environment"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 in the environment, but RANK and MASTER_ADDR and MASTER_PORT"),
        ({"RANK": "1"}, "RANK is 1 in the environment, and WORLD_SIZE 1"),
    ],
)  # fmt: skip
def test_an_environment_that_torchrun_does_not_make_is_refused(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    pytest.importorskip("torch")
    from hybridlm.distributed import initialise, is_first_to_fail

    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match=message):
        initialise("cpu")
    assert is_first_to_fail.__wrapped__()  # so somebody says it
