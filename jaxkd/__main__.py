"""``python -m jaxkd`` is ``jaxkd``."""

import sys

from jaxkd.cli import main

sys.exit(main())
