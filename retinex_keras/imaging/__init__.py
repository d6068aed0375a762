"""Pictures: their files, their pixels. No package is imported here, so that the command line can print its help at once."""

import os

PathLike = str | os.PathLike
MAX_PIXELS = 250_000_000  # larger images are refused by default; the largest sensors of phones have 200 million
SERVED_PIXELS = 50_000_000  # and by a server
