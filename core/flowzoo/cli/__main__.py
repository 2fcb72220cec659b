"""``python -m flowzoo.cli`` is ``flowzoo``."""

import sys

from flowzoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
