"""`python -m hybridlm …` is `hybridlm …`; under torchrun it is how commands are started."""

import sys

from hybridlm.cli.main import main

sys.exit(main())
