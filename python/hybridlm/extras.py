"""Packages that only part of hybridlm needs, and what to install where one is missing.

`pip install hybridlm` brings what the oracle, scoring without a network, the codec and the audit need. What
needs more says so before it does anything else, in the one line that a user's mistake gets.
"""

import importlib.util


def installed(package: str) -> bool:
    """Whether ``package`` can be found; it isn't imported."""
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):  # what import hooks, and modules without a spec, may raise
        return False


def require_torch(purpose: str) -> None:
    """Raises InputError, saying what to install, unless PyTorch is there; ``purpose`` begins the message."""
    _require("torch", "PyTorch", "train", purpose)


def require_tensorboard(purpose: str) -> None:
    """As `require_torch`, of TensorBoard."""
    _require("tensorboard", "TensorBoard", "tensorboard", purpose)


def require_ray(purpose: str) -> None:
    """As `require_torch`, of Ray."""
    _require("ray", "Ray", "ray", purpose)


def require_pyarrow(purpose: str) -> None:
    """As `require_torch`, of PyArrow."""
    _require("pyarrow", "PyArrow", "parquet", purpose)


def require_matplotlib(purpose: str) -> None:
    """As `require_torch`, of Matplotlib."""
    _require("matplotlib", "Matplotlib", "plots", purpose)


def require_tokenizers(purpose: str) -> None:
    """As `require_torch`, of Hugging Face's tokenizers."""
    _require("tokenizers", "the library tokenizers", "hub", purpose)


def require_hub(purpose: str) -> None:
    """As `require_torch`, of huggingface_hub."""
    _require("huggingface_hub", "huggingface_hub", "hub", purpose)


def _require(package: str, name: str, extra: str, purpose: str) -> None:
    if not installed(package):
        # Imported late, so that the doctor can ask what is installed where the extension can't be loaded.
        from hybridlm.errors import InputError

        raise InputError(f"{purpose} needs {name}, which is not installed: pip install 'hybridlm[{extra}]'")
