"""Files to pixels inside a graph, of core ops only: what a server can run that has no Python."""

import tensorflow as tf

from retinex_keras.imaging import DEFLATE, JPEG, SCAN_BYTES, SCANS
from retinex_keras.imaging.png import CHANNELS, HIGH_RANGE, PASSES

MEND = "save it as RGB, in PNG"
WHOLE = "a whole file, received one that is damaged, or announces more pixels than it can hold"


def decode(contents, max_pixels):
    """The pixels of an image file, a scalar string tensor: those of `read_image`, turned upright by the EXIF orientation.

    They are (H, W, 3), uint16, where a file of 8 bits has its values times 257, which are the same in [0, 1]. With them comes
    whether the file has 16 bits, a scalar boolean.

    Ops of the graph refuse with `tf.errors.InvalidArgumentError` what is no JPEG, PNG, WebP or BMP, is damaged, or announces
    too many pixels in its header, before it is decoded; and what they cannot turn into RGB: CMYK, grey with a colour profile,
    and colours of a high dynamic range.
    """
    data = tf.concat([tf.io.decode_raw(contents, tf.uint8), tf.zeros([1], tf.uint8)], 0)
    end, zero = tf.size(data, tf.int64) - 1, tf.constant(0, tf.int64)

    def number(at, count, little=False):
        """The integers of so many bytes at the offsets `at`, int64; beyond the end of the file are zeros."""
        at = tf.expand_dims(tf.convert_to_tensor(at, tf.int64), -1)
        digits = tf.gather(data, tf.minimum(at + tf.range(count, dtype=tf.int64), end))
        weights = tf.constant([256**i for i in range(count)], tf.int64)
        weights = tf.where(little, weights, weights[::-1])
        return tf.reduce_sum(tf.cast(digits, tf.int64) * weights, -1)

    def has(at, tag):
        return number(at, len(tag)) == int.from_bytes(tag, "big")

    def check(condition, *message):
        return tf.control_dependencies([tf.debugging.Assert(condition, message, summarize=1)])

    def checked(height, width, plain, message):
        """Lets ops wait for the check of the size, and then for that of what is plain."""
        pixels = tf.cast(height, tf.int64) * tf.cast(width, tf.int64)
        with check((pixels > 0) & (pixels <= max_pixels), f"Expected an image of 1 to {max_pixels} pixels, received", pixels):
            return check(plain, message)

    def eight_bits(image):
        return tf.cast(image, tf.uint16) * 257

    def walk(at, is_last, step, *state):
        """Goes from one part of a file to the next, and lets each change a state: `at` of the last, and what the state is then.

        It ends at the end of the file too, and where there are too many parts.
        """
        most = tf.cast(10_000 + end // 1024, tf.int32)
        state = [tf.constant(value, tf.int64) if isinstance(value, int) else value for value in (at, *state)]
        return tf.while_loop(lambda at, *_: (at < end) & ~is_last(at), step, state, maximum_iterations=most)

    def upright(image, at, length):
        """Turns the image by EXIF data."""
        beyond = at + length
        at += tf.where(has(at, b"Exif\0\0"), zero + 6, zero)
        little = has(at, b"II")
        entries = at + number(at + 4, 4, little)
        count = tf.minimum(number(entries, 2, little), (beyond - entries - 2) // 12)
        entries += 2 + 12 * tf.range(tf.maximum(count, 0))
        kind = number(entries + 2, 2, little)
        one_integer = (number(entries + 4, 4, little) == 1) & ((kind == 3) | (kind == 4))  # of 16 or 32 bits
        is_orientation = (number(entries, 2, little) == 0x112) & one_integer
        values = tf.where(kind == 3, number(entries + 8, 2, little), number(entries + 8, 4, little))
        values = tf.boolean_mask(values, is_orientation)
        turn = tf.concat([[1], values], 0)[-1] - 1
        valid = (has(at, b"II*\0") | has(at, b"MM\0*")) & (turn >= 0) & (turn < 8)
        turn = tf.where(valid, turn, 0)
        image = tf.cond(turn >= 4, lambda: tf.transpose(image, [1, 0, 2]), lambda: image)
        image = tf.cond((turn % 4 == 1) | (turn % 4 == 2), lambda: tf.reverse(image, [1]), lambda: image)
        return tf.cond(turn % 4 >= 2, lambda: tf.reverse(image, [0]), lambda: image)

    def jpeg():
        def step(at, exif, profile, known):
            mark = number(at + 1, 1)
            alone = (mark == 0) | (mark == 0xC8) | (mark >= 0xD0) & (mark <= 0xD9) | (mark >= 0xF0) & (mark <= 0xFD)
            after = at + 2 + tf.where(alone, zero, tf.maximum(number(at + 2, 2), 2))
            after = tf.where(~has(at, b"\xff") | (mark == 0xFF), at + 1, after)  # what is no mark is passed over
            exif = tf.where((exif == end) & has(at, b"\xff\xe1") & has(at + 4, b"Exif\0\0"), at, exif)
            profile |= has(at, b"\xff\xe2") & has(at + 34, b"GRAY")
            return after, exif, profile, known & (~has(at, b"\xff") | (mark == 0) | (mark >= 0xC0))

        at, exif, profile, known = walk(2, lambda at: has(at, b"\xff\xda"), step, end, tf.constant(False), tf.constant(True))
        height, width, channels = tf.unstack(tf.io.extract_jpeg_shape(contents))
        scans = tf.size(tf.where((data[:-1] == 0xFF) & (data[1:] == 0xDA)), tf.int64)  # `count_nonzero` takes 8 bytes for each
        fits = (
            known
            & (at < end)
            & (scans <= SCANS + end // SCAN_BYTES)
            & (tf.cast(height, tf.int64) * tf.cast(width, tf.int64) <= JPEG * end)
        )
        plain = (channels == 3) | (channels == 1) & ~profile
        with (
            checked(height, width, fits, f"Expected {WHOLE}"),
            check(plain, f"Expected RGB, or grey without a profile: {MEND}"),
        ):
            image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")  # Pillow's
        return upright(eight_bits(image), exif + 4, number(exif + 2, 2) - 2)

    def png():
        depth, colour = number(24, 1), number(25, 1)

        def step(at, exif, packed, unfit):
            exif = tf.where((exif == end) & has(at + 4, b"eXIf"), at, exif)
            unfit |= has(at + 4, b"acTL") | has(at + 4, b"iCCP") & (colour == 0) & ~is_16_bit  # 0 is grey without alpha
            unfit |= has(at + 4, b"cICP") & tf.reduce_any(number(at + 9, 1) == HIGH_RANGE)
            length = number(at, 4)
            return at + 12 + length, exif, packed + tf.where(has(at + 4, b"IDAT"), length, zero), unfit

        at, exif, packed, unfit = walk(8, lambda at: has(at + 4, b"IEND"), step, end, 0, tf.constant(False))
        width, height = number(16, 4), number(20, 4)
        passes = tf.constant([[(0, 0, 1, 1)] + 6 * [(2**32, 0, 1, 1)], PASSES], tf.int64)  # one, and six of no rows; or seven
        y, x, down, right = tf.unstack(tf.gather(passes, tf.minimum(number(28, 1), 1)), axis=1)
        rows, columns = (height - y + down - 1) // down, (width - x + right - 1) // right
        bits = depth * tf.gather(tf.constant([CHANNELS.get(kind, 0) for kind in range(256)], tf.int64), colour)
        unpacked = tf.reduce_sum(tf.where((rows > 0) & (columns > 0), rows * (1 + (columns * bits + 7) // 8), zero))
        fits = (at < end) & (unpacked <= DEFLATE * packed) & (packed <= 2 * unpacked + 65536)
        with (
            checked(height, width, fits, f"Expected {WHOLE}"),
            check(~unfit, f"Expected no animation, no high dynamic range, and grey without a profile: {MEND}"),
        ):
            image = tf.io.decode_png(contents, channels=3, dtype=tf.uint16)  # 8 bits become 16 as by `eight_bits`
        return upright(image, exif + 8, number(exif, 4))

    def webp():
        bits = number(21, 4, True)  # 14 for the width, 14 for the height
        lossy = number(28, 2, True) % 2**14, number(26, 2, True) % 2**14
        lossless = 1 + bits // 2**14 % 2**14, 1 + bits % 2**14
        extended = 1 + number(27, 3, True), 1 + number(24, 3, True)
        is_extended, flags = has(12, b"VP8X"), number(20, 1)
        size = tf.where(has(12, b"VP8L"), lossless, tf.where(is_extended, extended, lossy))
        still = ~is_extended | (flags // 2 % 2 == 0)
        with checked(*tf.unstack(size), still, "Expected a picture, received an animation"):
            image = tf.io.decode_image(contents, expand_animations=False)[..., :3]  # no alpha

        def step(at):
            return [at + 8 + (number(at + 4, 4, True) + 1) // 2 * 2]

        (at,) = walk(12, lambda at: has(at, b"EXIF"), step)
        has_exif = is_extended & (flags // 8 % 2 == 1) & (at < 8 + number(4, 4, True))
        return upright(eight_bits(image), tf.where(has_exif, at, end) + 8, number(at + 4, 4, True))

    def bmp():
        start, head, bits = number(10, 4, True), number(14, 4, True), number(28, 2, True)
        width, height = number(18, 4, True), number(22, 4, True)
        height = tf.minimum(height, 2**32 - height)  # negative where the first row is the upper one
        colours = number(46, 4, True)
        colours = tf.where(colours == 0, zero + 256, colours)
        plain = (number(30, 4) == 0) & ((bits == 8) & (colours <= 256) | (bits == 24) | (bits == 32))
        plain &= tf.reduce_any(head == [40, 52, 56, 64, 108, 124])
        needed = start + (width * bits + 31) // 32 * 4 * height
        with (
            checked(height, width, plain, f"Expected a BMP of 8, 24 or 32 bits, uncompressed: {MEND}"),
            check((start >= 14 + head + tf.where(bits == 8, zero + 1, zero)) & (needed <= end), f"Expected {WHOLE}"),
        ):
            image = tf.io.decode_bmp(tf.strings.substr(contents, zero, needed))  # files may be longer
        index = tf.range(256, dtype=tf.int64)[:, None]
        palette = tf.cast(tf.gather(data, tf.minimum(14 + head + 4 * index + [2, 1, 0], end)), tf.int64)
        # As Pillow has it: black beyond the colours, but a palette of greys, or of black and white, counts for nothing.
        grey = tf.where(colours == 2, tf.minimum(index, 1) * 255, index)
        is_grey = tf.reduce_all((palette == grey) | (index >= colours))
        palette = tf.cast(tf.where(is_grey, grey + zero * palette, tf.where(index < colours, palette, 0)), tf.uint8)
        image = tf.cond(bits == 8, lambda: tf.gather(palette, tf.cast(image[..., 0], tf.int32)), lambda: image[..., :3])
        return eight_bits(image)

    def unknown():
        with check(tf.constant(False), "Expected a JPEG, PNG, WebP or BMP file"):
            return tf.zeros([1, 1, 3], tf.uint16)

    is_webp = has(0, b"RIFF") & has(8, b"WEBP")
    is_png = has(0, b"\x89PNG")
    is_16_bit = is_png & (number(24, 1) == 16)
    formats = [(has(0, b"\xff\xd8\xff"), jpeg), (is_png, png), (is_webp, webp), (has(0, b"BM"), bmp)]
    return tf.ensure_shape(tf.case(formats, unknown), [None, None, 3]), is_16_bit
