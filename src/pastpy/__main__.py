"""``python -m pastpy``."""

from __future__ import annotations

import sys

from pastpy.cli import main

sys.exit(main())
