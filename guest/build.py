"""Entry of scripts/build-guest."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # for vmm.guest.cpio

from guestbuild.cli import main

sys.exit(main())
