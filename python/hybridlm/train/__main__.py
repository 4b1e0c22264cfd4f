"""`python -m hybridlm.train …` is `hybridlm train …`, for torchrun's `-m`."""

from hybridlm.cli.entry import run

run("train")
