"""The exceptions that stand for a user's mistake rather than for a bug of ours.

Both are ``ValueError``s; the operating system's refusals stay ``OSError``s. The command line turns these
three into one line on stderr and exit code 1, and lets everything else show its traceback.
"""

from hybridlm._core import FormatError, InputError

__all__ = ["FormatError", "InputError"]
