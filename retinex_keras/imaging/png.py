"""What Pillow does not look at in a PNG: whether its picture is whole, and whether only its metadata is damaged."""

import io
import re
import struct
import zlib

from PIL import PngImagePlugin

from retinex_keras.imaging import DEFLATE

SIGNATURE = b"\x89PNG\r\n\x1a\n"
CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the type of colour: grey, RGB, palette, grey with alpha, RGB with alpha
DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}
# The seven passes of an interlaced picture: first row, first column, steps of the rows and of the columns.
PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
HIGH_RANGE = (16, 18)  # PQ and HLG, among the transfer functions of PNG, HEIF and AVIF
PIECE = 2**20  # bytes that are in memory at a time
# Pillow takes a text of such a name for its own.
RESERVED = {b"bbox", b"default_image", b"dpi", b"exif", b"icc_profile", b"interlace", b"nclx_profile", b"transparency", b"xmp"}


def without_damage(stream):
    """A PNG that Pillow reads without an error: metadata that is damaged, or too long once unpacked, is left out.

    Args:
        stream: a binary file that begins with the signature of PNG.

    Returns:
        The stream, or one in memory where something had to be left out.

    Raises:
        OSError: if the picture itself is damaged or not whole, or if its header announces more than its data can hold.
    """
    chunks = list(_chunks(stream))
    stream.seek(25)
    has_palette = stream.read(1) == b"\3"
    order = b"".join(name if _is_critical(name) and (has_palette or name != b"PLTE") else b"-" for name, *_ in chunks)
    palettes = [length for name, _, length in chunks if name == b"PLTE"] if has_palette else [3]
    if not re.fullmatch(b"IHDR-*(PLTE-*)?(IDAT)+-*IEND", order) or chunks[0][2] != 13 or not palettes or palettes[0] % 3:
        raise OSError("its chunks are not in order")
    packed, unpacked = sum(length for name, _, length in chunks if name == b"IDAT"), _size(stream)
    if unpacked > DEFLATE * packed:
        raise OSError("it announces more pixels than a file of its size can hold")
    if packed > 2 * unpacked + 65536:  # no encoder needs as much
        raise OSError("it holds more data than its pixels need")
    probe, kept, is_sound = PngImagePlugin.PngStream(stream), {}, True
    stream.seek(16)
    probe.call(*chunks[0])
    for name, start, length in chunks:
        stream.seek(start)
        is_good = zlib.crc32(stream.read(length), zlib.crc32(name)).to_bytes(4) == stream.read(4)
        if _is_critical(name):
            if not is_good:
                raise OSError(f"the checksum of its chunk {name.decode()} is wrong")
            is_fit = True
        elif name == b"eXIf":  # the first one, right or wrong: a server computes no checksums
            is_fit = name not in (other for other, _ in kept.values())
        else:
            is_fit = is_good and _is_fit(probe, name, start, length)
        is_sound &= is_good and is_fit
        if is_fit:
            kept[start] = name, length
    if is_sound:
        return stream
    joined = io.BytesIO(SIGNATURE)
    joined.seek(0, io.SEEK_END)
    for start, (name, length) in kept.items():
        stream.seek(start)
        PngImagePlugin.putchunk(joined, name, stream.read(length))
    return joined


def is_whole(stream):
    """Whether the data of a PNG holds all rows of its picture."""
    rest, inflate = _size(stream), zlib.decompressobj()
    for name, start, length in _chunks(stream):
        if name == b"IDAT":
            stream.seek(start)
            packed = stream.read(length)
            while packed and rest > 0:
                rest -= len(inflate.decompress(packed, min(PIECE, rest)))
                packed = inflate.unconsumed_tail
    return rest <= 0


def is_high_range(stream):
    """Whether the colours of a PNG are those of PQ or HLG, by its chunk cICP.

    >>> is_high_range(io.BytesIO(Path("dark.png").read_bytes()))
    False
    """
    for name, start, _ in _chunks(stream):
        stream.seek(start)
        if name == b"cICP" and stream.read(2)[1] in HIGH_RANGE:
            return True
    return False


def _is_critical(name):
    return not name[0] & 32  # a small first letter says that a picture can do without


def _chunks(stream):
    """Name, offset and length of the data of each chunk up to IEND."""
    at, end = len(SIGNATURE), stream.seek(0, io.SEEK_END)
    for _ in range(10_000 + end // 1024):
        stream.seek(at)
        head = stream.read(8)
        length, name = struct.unpack(">I4s", head) if len(head) == 8 else (0, b"")
        if at + 12 + length > end:
            raise OSError("it is truncated")
        if not name.isalpha():
            raise OSError("its chunks are damaged")
        yield name, at + 8, length
        if name == b"IEND":
            return
        at += 12 + length
    raise OSError("it has too many chunks")


def _is_fit(probe, name, start, length):
    """Whether Pillow takes a chunk of metadata as what it is."""
    if name == b"tRNS" and length not in {"P": range(1, 257), "RGB": (6,)}.get(probe.im_mode, (2,)):
        return False
    probe.fp.seek(start)
    if name in (b"tEXt", b"zTXt", b"iTXt") and probe.fp.read(80).split(b"\0")[0] in RESERVED:
        return False
    probe.fp.seek(start)
    try:
        probe.call(name, start, length)
    except (AttributeError, EOFError):  # for a chunk that it does not know; for pixels of an animation
        return True
    except Exception:
        return False
    return True


def _size(stream):
    """How many bytes the pixels of a picture are before they are packed; each row begins with the number of its filter."""
    stream.seek(16)
    width, height, depth, colour, packing, filters, is_interlaced = struct.unpack(">2I5B", stream.read(13))
    if depth not in DEPTHS.get(colour, ()) or packing or filters or is_interlaced > 1:
        raise OSError("its header is damaged")
    passes = PASSES if is_interlaced else [(0, 0, 1, 1)]
    sides = [(len(range(y, height, down)), len(range(x, width, right))) for y, x, down, right in passes]
    return sum(rows * (1 + (columns * depth * CHANNELS[colour] + 7) // 8) for rows, columns in sides if columns)
