"""`python -m retinex_keras`: the same as the command `retinex`."""

import sys

from retinex_keras.cli import main

if __name__ == "__main__":
    sys.exit(main())
