"""The neural expert. `ModelConfig` comes without torch; `GPT` brings it in when first asked for."""

from typing import TYPE_CHECKING, Any

from hybridlm.model.config import ModelConfig

if TYPE_CHECKING:
    from hybridlm.model.gpt import GPT

__all__ = ["GPT", "ModelConfig"]


def __getattr__(name: str) -> Any:
    if name == "GPT":
        from hybridlm.model.gpt import GPT

        return GPT
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
