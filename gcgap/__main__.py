"""`python -m gcgap`."""

import sys

from gcgap.cli import main

sys.exit(main())
