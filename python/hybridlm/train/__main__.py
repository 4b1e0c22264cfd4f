"""`python -m hybridlm.train …` is `hybridlm train …`, for torchrun's `-m`."""

import sys

from hybridlm.cli.main import main

sys.exit(main(["train", *sys.argv[1:]]))
