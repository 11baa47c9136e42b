"""The command line with tables that are saved in slices, however small they are.

`python -m tests.saved_in_slices train …`
"""

import sys

from deepfm import saving
from deepfm.cli import main

if __name__ == "__main__":
    saving.LARGEST_FILE = 0
    sys.exit(main())
