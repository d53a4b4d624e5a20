"""`python -m services.cli`: how `taskq up` starts its roles."""

import sys

from services.cli.entry import main

sys.exit(main())
