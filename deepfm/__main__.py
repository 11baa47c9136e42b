"""`python -m deepfm`."""

import sys

from deepfm.cli import main

if __name__ == "__main__":
    sys.exit(main())
