"""Files to pixels inside a graph, of core ops only: what a server can run that has no Python."""

import tensorflow as tf

MEND = "save it as RGB, in PNG"


def decode(contents, max_pixels):
    """The pixels of an image file, a scalar string tensor: those of `read_image`, turned upright by the EXIF orientation.

    They are (H, W, 3), uint16, where a file of 8 bits has its values times 257, which are the same in [0, 1]. With them comes
    whether the file has 16 bits, a scalar boolean.

    Ops of the graph refuse with `tf.errors.InvalidArgumentError` what is no JPEG, PNG, WebP or BMP, is damaged, or announces
    too many pixels in its header, before it is decoded; and what needs a colour profile to become RGB, which they cannot read:
    CMYK and grey with a profile.
    """
    data = tf.concat([tf.io.decode_raw(contents, tf.uint8), tf.zeros([1], tf.uint8)], 0)
    end = tf.size(data, tf.int64) - 1

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

    def find(first, wanted, following):
        """The offset of the first chunk that is wanted, beginning at an offset; the end of the file if there is none."""
        start = [tf.constant(first, tf.int64)]
        (at,) = tf.while_loop(lambda at: (at < end) & ~wanted(at), lambda at: [following(at)], start, maximum_iterations=9999)
        return tf.where(wanted(at), at, end)

    def upright(image, at):
        """Turns the image by the EXIF data at an offset."""
        at += tf.where(has(at, b"Exif"), tf.constant(6, tf.int64), 0)
        little = has(at, b"II")
        entries = at + number(at + 4, 4, little)
        entries += 2 + 12 * tf.range(number(entries, 2, little))
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
        def following(at):
            after = tf.where(has(at, b"\xff\xff"), at + 1, at + 2 + number(at + 2, 2))  # a segment may begin with padding
            return tf.where(has(at, b"\xff\xda"), end, after)

        height, width, channels = tf.unstack(tf.io.extract_jpeg_shape(contents))
        profile = find(2, lambda at: has(at, b"\xff\xe2") & has(at + 34, b"GRAY"), following)
        plain = (channels == 3) | (channels == 1) & (profile == end)
        with checked(height, width, plain, f"Expected RGB, or grey without a profile: {MEND}"):
            image = tf.io.decode_jpeg(contents, channels=3, dct_method="INTEGER_ACCURATE")  # Pillow's
        exif = find(2, lambda at: has(at, b"\xff\xe1") & has(at + 4, b"Exif"), following)
        return upright(eight_bits(image), exif + 4)

    def png():
        def following(at):
            return at + 12 + number(at, 4)

        def unfit(at):
            return has(at + 4, b"acTL") | has(at + 4, b"iCCP") & (number(25, 1) == 0) & ~is_16_bit  # 0 is grey without alpha

        plain = ~unfit(find(8, lambda at: unfit(at) | has(at + 4, b"IDAT"), following))
        with checked(number(20, 4), number(16, 4), plain, f"Expected no animation, and grey without a profile: {MEND}"):
            image = tf.io.decode_png(contents, channels=3, dtype=tf.uint16)  # 8 bits become 16 as by `eight_bits`
        return upright(image, 8 + find(8, lambda at: has(at + 4, b"eXIf"), following))

    def webp():
        bits = number(21, 4, True)  # 14 for the width, 14 for the height
        lossy = number(28, 2, True) % 2**14, number(26, 2, True) % 2**14
        lossless = 1 + bits // 2**14 % 2**14, 1 + bits % 2**14
        extended = 1 + number(27, 3, True), 1 + number(24, 3, True)
        size = tf.where(has(12, b"VP8L"), lossless, tf.where(has(12, b"VP8X"), extended, lossy))
        still = ~has(12, b"VP8X") | (number(20, 1) // 2 % 2 == 0)
        with checked(*tf.unstack(size), still, "Expected a picture, received an animation"):
            image = tf.io.decode_image(contents, expand_animations=False)[..., :3]  # no alpha

        def following(at):
            return at + 8 + (number(at + 4, 4, True) + 1) // 2 * 2

        return upright(eight_bits(image), 8 + find(12, lambda at: has(at, b"EXIF"), following))

    def bmp():
        height, bits = number(22, 4, True), number(28, 2, True)
        height = tf.minimum(height, 2**32 - height)  # negative where the first row is the upper one
        plain = (number(30, 4) == 0) & ((bits == 8) | (bits == 24) | (bits == 32))
        with checked(height, number(18, 4, True), plain, f"Expected a BMP of 8, 24 or 32 bits, uncompressed: {MEND}"):
            image = tf.io.decode_bmp(contents)
        palette = 14 + number(14, 4, True) + 4 * tf.range(256, dtype=tf.int64)[:, None] + [2, 1, 0]
        coloured = tf.gather(data, tf.minimum(palette, end))
        image = tf.cond(bits == 8, lambda: tf.gather(coloured, tf.cast(image[..., 0], tf.int32)), lambda: image[..., :3])
        return eight_bits(image)

    def unknown():
        with check(tf.constant(False), "Expected a JPEG, PNG, WebP or BMP file"):
            return tf.zeros([1, 1, 3], tf.uint16)

    is_webp = has(0, b"RIFF") & has(8, b"WEBP")
    is_png = has(0, b"\x89PNG")
    is_16_bit = is_png & (number(24, 1) == 16)
    formats = [(has(0, b"\xff\xd8\xff"), jpeg), (is_png, png), (is_webp, webp), (has(0, b"BM"), bmp)]
    return tf.ensure_shape(tf.case(formats, unknown), [None, None, 3]), is_16_bit
