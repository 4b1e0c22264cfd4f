"""Train, bundle and honestly score hybrid n-gram + neural language models within 16 MB."""

from importlib.metadata import version

__version__ = version("hybridlm")
