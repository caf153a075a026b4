"""`python -m edgellama` is the `edgellama` command."""

import sys

from .cli import main

sys.exit(main())
