"""`python -m vmm` is `vmm`."""

import sys

from .cli import main

sys.exit(main())
