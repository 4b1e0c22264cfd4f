"""The exceptions that stand for a user's mistake rather than for a bug of ours.

All are ``ValueError``s; the operating system's refusals stay ``OSError``s. The command line turns these into
one line on stderr and exit code 1 (of a `UsageError`, 2), and lets everything else show its traceback.
"""

from hybridlm._core import FormatError, InputError

__all__ = ["FormatError", "InputError", "UsageError"]


class UsageError(InputError):
    """An argument or option that can't be, whatever the files hold."""
