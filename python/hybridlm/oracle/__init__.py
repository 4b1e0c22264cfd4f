"""Frozen n-gram oracles: building them, looking them up, measuring them.

Importing this package needs NumPy only; torch is imported where tables are put on a device.
"""

from hybridlm.oracle.oracle import Oracle

__all__ = ["Oracle"]
