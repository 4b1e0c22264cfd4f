"""What a cluster can't do is said at once; nothing here starts one."""

from itertools import pairwise
from types import SimpleNamespace

import numpy as np
import pytest

from hybridlm.errors import InputError
from hybridlm.oracle.ray_building import ranges
from hybridlm.oracle.ray_cluster import _check_reachable, task_slots


def cluster(*cpus: int) -> SimpleNamespace:
    nodes = [{"Alive": True, "Resources": {"CPU": float(count)}} for count in cpus]
    nodes.append({"Alive": False, "Resources": {"CPU": 64.0}})
    return SimpleNamespace(nodes=lambda: nodes, cluster_resources=lambda: {"CPU": float(sum(cpus))})


def test_a_task_that_no_node_could_ever_run_is_refused() -> None:
    assert task_slots(cluster(2, 4), 4) == 1
    assert task_slots(cluster(2, 4), 1) == 6
    for threads, nodes in ((3, (2, 2)), (1, ())):
        with pytest.raises(InputError, match=f"--threads {threads}"):
            task_slots(cluster(*nodes), threads)


def test_ranges_cover_the_vocabulary_and_are_about_equally_frequent() -> None:
    frequencies = np.random.default_rng(3).pareto(1.2, 2000).astype(np.int64)
    for most in (1, 7, 64, 5000):
        bounds = ranges(frequencies, most)
        assert bounds[0] == 0 and bounds[-1] == 2000 and len(bounds) - 1 <= most
        assert all(np.diff(bounds) > 0)
        held = [int(frequencies[start:end].sum() + end - start) for start, end in pairwise(bounds)]
        share = (frequencies.sum() + 2000) / most
        assert max(held) <= share + frequencies.max() + 1
    assert ranges(np.array([5]), 9) == [0, 1]


def test_an_address_where_nobody_listens_is_refused() -> None:
    for address in ("127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999", "[::1]:1"):
        with pytest.raises(InputError, match="no Ray cluster can be reached"):
            _check_reachable(address)
    for address in ("auto", "local"):
        _check_reachable(address)
