"""`python -m hybridlm …` is `hybridlm …`; under torchrun it is how commands are started."""

from hybridlm.cli.entry import run

run()
