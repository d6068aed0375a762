"""Pictures: their files, their pixels. No package is imported here, so that the command line can print its help at once."""

import os

PathLike = str | os.PathLike
MAX_PIXELS = 250_000_000  # larger images are refused by default; the largest sensors of phones have 200 million
SERVED_PIXELS = 50_000_000  # and by a server
# The formats that are opened. Not among them are those for which Pillow starts another program (EPS) or needs a library of its
# user's (GRIB, HDF5, ...).
FORMATS = ("JPEG", "MPO", "PNG", "WEBP", "TIFF", "BMP", "GIF", "AVIF", "JPEG2000", "PSD", "PPM", "TGA", "ICO", "PCX", "SGI")
FORMATS += ("QOI", "DDS")
# What a byte of a file holds at most, so that small files which announce much are refused at once. Deflate: 258 bytes in two
# bits. LZW: 4096 bytes in 12 bits. A plain picture comes close to them.
DEFLATE, LZW = 1032, 2731
JPEG = 512  # pixels: an 8x8 block takes a bit or more
BMP = 128  # pixels: a run of 255 takes two bytes
# A JPEG may go over its picture again and again, with a few bytes each time. Encoders do so about ten times. What follows the
# picture, a film say, has the mark of a scan once in 65536 bytes by chance.
SCANS, SCAN_BYTES = 200, 16384


def is_address(place: PathLike) -> bool:
    """Whether a place is an address, as fsspec knows them, and not the path of a folder or file."""
    return "://" in str(place)
