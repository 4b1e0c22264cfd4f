"""Can this installation do its work? Each check looks at one thing and says what to do where it fails.

Nothing of hybridlm or of its dependencies is imported before the check that is about it, so that a broken
part is a line in the report.
"""

import importlib
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from hybridlm.extras import installed

REQUIRED = ("numpy", "rich", "safetensors", "sentencepiece", "tyro")
OPTIONAL = {
    "torch": "training and neural models need it: pip install 'hybridlm[train]'",
    "ray": "oracle build --engine ray needs it: pip install 'hybridlm[ray]'",
}

Outcome = Literal["ok", "warning", "failed"]


@dataclass(frozen=True)
class Check:
    """What a check found. A warning costs speed or an option, a failure keeps hybridlm from working."""

    name: str
    outcome: Outcome
    found: str


def examine() -> Iterator[Check]:
    """Every check's result, in order, as it becomes known.

    What needs a part that is missing or broken is not looked at: each cause is one result.
    """
    yield Check("python", "ok", f"{platform.python_version()} on {platform.platform()}")
    unusable: set[str] = set()
    for package in (*REQUIRED, *OPTIONAL):
        check = _package(package)
        if check.outcome != "ok":
            unusable.add(package)
        yield check
    for name, (needed, look) in CHECKS.items():
        if not unusable.isdisjoint(needed):
            unusable.add(name)
            continue
        try:
            outcome, found = look()
        except Exception as error:  # whatever it is, it is what the user has to know
            outcome, found = "failed", f"{type(error).__name__}: {error}"
        if outcome == "failed":
            unusable.add(name)
        yield Check(name, outcome, found)


def _package(name: str) -> Check:
    if not installed(name):
        if name in OPTIONAL:
            return Check(name, "warning", f"not installed; {OPTIONAL[name]}")
        return Check(name, "failed", f"not installed: pip install {name}")
    try:
        # Ray is only asked for its version: importing it takes seconds.
        if name != "ray":
            importlib.import_module(name)
        return Check(name, "ok", version(name))
    except Exception as error:
        return Check(name, "failed", f"{type(error).__name__}: {error}; install it again")


def _native_code() -> tuple[Outcome, str]:
    """Counts a shard, builds an oracle and looks it up: reading, counting, compressing, writing, threads."""
    import numpy as np

    from hybridlm import __version__, _core
    from hybridlm.oracle import Oracle
    from hybridlm.oracle.build import build_dense

    tokens = (np.arange(20_000, dtype=np.uint64) ** 2 // 7 % 251).astype(np.uint16)
    with tempfile.TemporaryDirectory(prefix="hybridlm-doctor-") as folder:
        shard = Path(folder) / "check_train_000000.bin"
        _core.write_shard(str(shard), tokens)
        oracle = Oracle.from_bytes(build_dense([shard], 256, orders=3), "the doctor's oracle")
    rows = oracle.log_probs(tokens, np.arange(0, 20_000, 500))
    error = float(np.abs(np.exp(rows.astype(np.float64)).sum(-1) - 1).max())
    if error > 1e-5:
        return "failed", f"rows of an oracle built here sum to one only within {error:.1e}: install again"
    return "ok", f"hybridlm {__version__}; built and read an oracle, rows sum to one within {error:.0e}"


def _hashes() -> tuple[Outcome, str]:
    from hybridlm.oracle.context_hash import verify_hash_twins

    with_torch = "torch" in sys.modules  # imported above, where it is installed and can be
    verify_hash_twins(with_torch=with_torch)
    return "ok", f"Rust{', NumPy and torch' if with_torch else ' and NumPy'} agree on the rows of contexts"


def _threads() -> tuple[Outcome, str]:
    from hybridlm.threads import VARIABLE, available_cores, thread_count

    by = VARIABLE if os.environ.get(VARIABLE) else "the cores this process may use"
    return "ok", f"{thread_count()} of {available_cores()}, by {by}"


def _memory() -> tuple[Outcome, str]:
    if not hasattr(os, "sysconf") or "SC_PHYS_PAGES" not in os.sysconf_names:
        return "ok", "unknown on this system"
    size = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    # `hybridlm run` with its own settings takes 1.4 GB.
    return ("ok" if size >= 2e9 else "warning"), f"{size / 1e9:.1f} GB; the smallest pipeline takes 1.4 GB"


def _temporary_files() -> tuple[Outcome, str]:
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < 1e9:
        return "warning", f"{folder} has {free / 1e9:.1f} GB left; set TMPDIR to a folder with more"
    return "ok", f"{folder}, {free / 1e9:.0f} GB left"


def _devices() -> tuple[Outcome, str]:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return "ok", f"CUDA {torch.version.cuda}: {', '.join(names)}"
    built_for = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPUs"
    return "ok", f"CPU only (torch is built for {built_for})"


def _distributed() -> tuple[Outcome, str]:
    import torch.distributed

    if not torch.distributed.is_available() or not torch.distributed.is_gloo_available():
        return "warning", "this torch has no gloo: torchrun with several processes on CPUs won't work"
    return "ok", "gloo" + (" and NCCL" if torch.distributed.is_nccl_available() else "")


def _compiler() -> tuple[Outcome, str]:
    compiler = os.environ.get("CXX") or shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "warning", "no C++ compiler: train --compile won't work on CPUs"
    return "ok", compiler


CHECKS: dict[str, tuple[tuple[str, ...], Callable[[], tuple[Outcome, str]]]] = {
    "native code": (("numpy",), _native_code),
    "hashes": (("numpy", "native code"), _hashes),
    "threads": (("native code",), _threads),
    "memory": ((), _memory),
    "temporary files": ((), _temporary_files),
    "devices": (("torch",), _devices),
    "torchrun": (("torch",), _distributed),
    "torch.compile": (("torch",), _compiler),
}
"""Each with the packages and earlier checks without which it would have nothing of its own to say."""
