"""Entry of scripts/build-guest."""

import sys

from guestbuild.cli import main

sys.exit(main())
