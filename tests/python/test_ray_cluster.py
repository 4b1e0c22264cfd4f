"""What a cluster can't do is said at once; nothing here starts one."""

from types import SimpleNamespace

import pytest

from hybridlm.errors import InputError
from hybridlm.oracle.ray_counting import _check_reachable, _slots


def cluster(*cpus: int) -> SimpleNamespace:
    nodes = [{"Alive": True, "Resources": {"CPU": float(count)}} for count in cpus]
    nodes.append({"Alive": False, "Resources": {"CPU": 64.0}})
    return SimpleNamespace(nodes=lambda: nodes, cluster_resources=lambda: {"CPU": float(sum(cpus))})


def test_a_task_that_no_node_could_ever_run_is_refused() -> None:
    assert _slots(cluster(2, 4), 4) == 1
    assert _slots(cluster(2, 4), 1) == 6
    for threads, nodes in ((3, (2, 2)), (1, ())):
        with pytest.raises(InputError, match=f"--threads {threads}"):
            _slots(cluster(*nodes), threads)


def test_an_address_where_nobody_listens_is_refused() -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999", "[::1]:1"):
        with pytest.raises(InputError, match="no Ray cluster can be reached"):
            _check_reachable(address)
    for address in ("auto", "local"):
        _check_reachable(address)
