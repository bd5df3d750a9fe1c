"""`python -m deepvit_edu` is the command `deepvit-edu`."""

import sys

from .cli import main

sys.exit(main())
