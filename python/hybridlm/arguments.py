"""Says what was meant where a function of the package is given something of another kind."""

_HOW = {
    "Artifact": "Artifact.from_file(path) reads one",
    "Oracle": "Oracle.from_file(path) reads one",
    "Tokenizer": "Tokenizer.load(path) reads one",
    "Vocabulary": "a tokenizer's .vocabulary is one",
}


def check_kind(value: object, kind: type, name: str) -> None:
    """Raise TypeError, which says how to get one, if the argument ``name`` isn't an instance of ``kind``."""
    if not isinstance(value, kind):
        what = f"{name} must be a hybridlm.{kind.__name__}"
        raise TypeError(f"{what}, not {type(value).__name__}: {_HOW[kind.__name__]}")
