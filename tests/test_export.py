import io
import shutil
import struct
import subprocess
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from retinex_keras.imaging.pixels import context_indices
from retinex_keras.imaging.read import read_image
from retinex_keras.inference import decompose, enhance
from retinex_keras.serving.decode import decode
from retinex_keras.serving.export import export_onnx, export_savedmodel
from retinex_keras.serving.targets import version_path

SIZES = [(1, 1), (13, 17), (24, 16), (1100, 9), (9, 2400)]  # the last two have several tiles


@pytest.fixture(scope="module")
def signatures(exports):
    return {version: tf.saved_model.load(str(exports[0] / str(version))).signatures for version in (1, 2)}


@pytest.fixture(scope="module")
def decoder():
    return tf.function(lambda contents: decode(contents, 10_000), input_signature=[tf.TensorSpec([], tf.string)])


def picture(height, width):
    y, x = np.mgrid[:height, :width]
    noise = np.random.default_rng(0).integers(0, 40, (height, width, 3))
    return Image.fromarray((np.stack([y * 9, x * 7, (x + y) * 3], -1) % 216 + noise).astype("uint8"))


def saved(image, format, **options):
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def pixels(contents):
    return np.asarray(Image.open(io.BytesIO(contents)))


@pytest.mark.parametrize("version", [1, 2])
def test_files_give_what_enhance_gives_each_at_its_size(exports, signatures, version):
    deep = np.random.default_rng(0).integers(0, 65536, (13, 17, 3), "uint16")
    images = [*(np.asarray(picture(*size)) for size in SIZES), deep]
    contents = tf.constant([tf.io.encode_png(image).numpy() for image in images])
    results = signatures[version]["serving_default"](image_bytes=contents)["enhanced_bytes"].numpy()
    for image, result in zip(images, results, strict=True):
        result = tf.io.decode_png(result, dtype=image.dtype)
        np.testing.assert_array_equal(result, enhance(image, exports[1][version]))
        assert np.std(result) > np.iinfo(image.dtype).max / 50 or image.size == 3


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [(1, 1), (13, 17), (24, 16)])
def test_floats_give_what_decompose_gives(exports, signatures, version, size, random):
    image = random.random((*size, 3), "float32")
    parts = signatures[version]["decompose"](image=tf.constant(image[None]))
    parts |= signatures[version]["enhance"](image=tf.constant(image[None]))
    expected = decompose(image, exports[1][version])
    assert set(parts) == set(expected)
    for name, part in parts.items():
        np.testing.assert_array_equal(part[0], expected[name], err_msg=name)


def test_floats_of_too_many_pixels_are_refused(signatures):
    for name in ("enhance", "decompose"):
        with pytest.raises(tf.errors.InvalidArgumentError, match="Expected at most 2500000 pixels"):
            signatures[2][name](image=tf.zeros((1, 1000, 2501, 3)))


def test_floats_beyond_the_range_are_refused(signatures):
    for value in (1.5, np.nan):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"Expected floats in \[0, 1\]"):
            signatures[1]["enhance"](image=tf.fill((1, 8, 8, 3), np.float32(value)))


def table():
    """Files of all kinds that are read."""
    files = {}
    upright = picture(13, 17)
    for turn in range(10):  # 0 and 9 mean nothing
        exif = Image.Exif()
        exif[0x10F], exif[0x112] = "maker", turn
        motorola = b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0" + bytes([turn]) + bytes(6)
        for format in ("JPEG", "PNG", "WEBP"):
            files[f"EXIF {turn}.{format}"] = saved(upright, format, exif=exif)
        files[f"EXIF {turn} big-endian.JPEG"] = saved(upright, "JPEG", exif=motorola)
        long = b"Exif\0\0II*\0\x08\0\0\0\x01\0\x12\x01\x04\0\x01\0\0\0" + bytes([turn]) + bytes(7)
        files[f"EXIF {turn} of 32 bits.JPEG"] = saved(upright, "JPEG", exif=long)
        files[f"EXIF {turn} after padding.JPEG"] = saved(upright, "JPEG", exif=long).replace(
            b"\xff\xe1", b"\xff\xff\xff\xe1", 1
        )
    for name, exif in {"short": b"II*\0", "far": b"II*\0\xff\xff\xff\xff", "long": b"II*\0\x08\0\0\0\xff\xff"}.items():
        files[f"EXIF {name}.JPEG"] = saved(upright, "JPEG", exif=b"Exif\0\0" + exif)
    for size in ((1, 1), (7, 5), (31, 64)):
        image, name = picture(*size), "{}x{}".format(*size)
        clear = image.convert("RGBA")
        clear.putalpha(image.getchannel(0))
        for quality in (30, 95):
            for subsampling in (0, 1, 2):
                options = {"quality": quality, "subsampling": subsampling, "progressive": quality == 95}
                files[f"{name} {quality} {subsampling}.JPEG"] = saved(image, "JPEG", **options)
        files[f"{name} L.JPEG"] = saved(image.convert("L"), "JPEG")
        files[f"{name} MPO.JPEG"] = saved(image, "MPO", save_all=True, append_images=[clear.convert("RGB")])
        for mode in ("1", "L", "P", "RGB"):
            files[f"{name} {mode}.PNG"] = saved(image.convert(mode), "PNG")
        for mode in ("LA", "RGBA"):
            files[f"{name} {mode}.PNG"] = saved(clear.convert(mode), "PNG")
        for mode, colour in (("L", 3), ("P", 3), ("RGB", (1, 2, 3))):
            files[f"{name} {mode} transparency.PNG"] = saved(image.convert(mode), "PNG", transparency=colour)
        for channels in (1, 2, 3, 4):
            deep = np.random.default_rng(0).integers(0, 65536, (*size, channels), "uint16")
            files[f"{name} 16 bits, {channels} channels.PNG"] = tf.io.encode_png(deep).numpy()
        for lossless in (False, True):
            files[f"{name} lossless {lossless}.WEBP"] = saved(image, "WEBP", lossless=lossless)
            files[f"{name} alpha, lossless {lossless}.WEBP"] = saved(clear, "WEBP", lossless=lossless)
        for mode in ("L", "P", "RGB", "RGBA"):
            files[f"{name} {mode}.BMP"] = saved(image.convert(mode), "BMP")
    return files


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damaged EXIF
def test_files_are_decoded_as_read_image_does(decoder, tmp_path):
    different = []
    for name, contents in table().items():
        (tmp_path / name).write_bytes(contents)
        expected = read_image(tmp_path / name)
        image, deep = decoder(tf.constant(contents))
        deep = bool(deep)
        if deep != (expected.dtype == np.uint16) or not np.array_equal(image, expected * np.uint16(1 if deep else 257)):
            different.append(name)
    assert different == []


def announcing(contents, at, layout):
    return contents[:at] + struct.pack(layout, 16000, 16000) + contents[at + struct.calcsize(layout) :]


JPEG, PNG, WEBP, BMP = (saved(picture(31, 64), format) for format in ("JPEG", "PNG", "WEBP", "BMP"))
GREY_PROFILE = bytes(16) + b"GRAY" + bytes(108)
ANIMATION = saved(picture(31, 64), "WEBP", save_all=True, append_images=[picture(31, 64).rotate(180)])


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        (b"", "Expected a JPEG, PNG, WebP or BMP"),
        (b"hello", "Expected a JPEG, PNG, WebP or BMP"),
        (saved(picture(31, 64), "GIF"), "Expected a JPEG, PNG, WebP or BMP"),
        (JPEG[:400], "Invalid JPEG"),
        (PNG[:400], "a whole file"),
        (WEBP[:400], "WebP"),
        (BMP[:400], "a whole file"),
        (JPEG[:20], "Invalid JPEG"),
        (PNG[:20], "1 to 10000 pixels"),
        (announcing(JPEG, JPEG.index(b"\xff\xc0") + 5, ">HH"), "1 to 10000 pixels, received.*256000000"),
        (announcing(PNG, 16, ">II"), "1 to 10000 pixels, received.*256000000"),
        (announcing(WEBP, 26, "<HH"), "1 to 10000 pixels, received.*256000000"),
        (announcing(BMP, 18, "<ii"), "1 to 10000 pixels, received.*256000000"),
        (saved(picture(31, 64).convert("1"), "BMP"), "8, 24 or 32 bits"),
        (saved(picture(31, 64).convert("CMYK"), "JPEG"), "RGB, or grey without a profile"),
        (saved(picture(31, 64).convert("L"), "JPEG", icc_profile=GREY_PROFILE), "RGB, or grey without a profile"),
        (saved(picture(31, 64).convert("L"), "PNG", icc_profile=GREY_PROFILE), "grey without a profile"),
        (saved(picture(31, 64), "PNG", save_all=True, append_images=[picture(31, 64).rotate(180)]), "no animation"),
        (ANIMATION, "an animation"),
    ],
)
def test_what_cannot_be_read_is_an_invalid_argument(decoder, contents, message):
    with pytest.raises(tf.errors.InvalidArgumentError, match=message):
        decoder(tf.constant(contents))


def chunk(name, data=b""):
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def with_chunk(data, last=False):
    """The PNG with another chunk after its header, or before its end."""
    return PNG[:-12] + data + PNG[-12:] if last else PNG[:33] + data + PNG[33:]


def with_segment(length, data=b""):
    """The JPEG with another segment at its beginning, of any length."""
    return JPEG[:2] + b"\xff\xe5" + struct.pack(">H", length) + data + JPEG[2:]


def oriented(turn):
    exif = Image.Exif()
    exif[0x112] = turn
    return exif.tobytes()


ZEROS = zlib.compress(bytes(3_000_000))
SMALL = saved(picture(4, 4).quantize(3), "BMP")  # its pixels are at 66
OF_ONE_MIND = {  # whether a file is read, by Python and by the server
    "a length that hides EXIF": (with_segment(40, saved(picture(31, 64), "JPEG", exif=oriented(6))[20:58]), True),
    "EXIF beyond its segment": (JPEG[:2] + b"\xff\xe1\0\x10" + oriented(6)[:14] + oriented(6)[14:] + JPEG[2:], True),
    "a segment without a length": (with_segment(0), True),
    "a segment beyond the end": (with_segment(65535), False),
    "a mark that nobody knows": (JPEG[:2] + b"\xff\x80" + JPEG[2:], False),
    "junk between segments": (JPEG[:20] + bytes(9) + JPEG[20:], True),
    "a JPEG of few bytes": (JPEG[: JPEG.index(b"\xff\xda") + 20], False),
    "many scans": (JPEG[:-2] + JPEG[JPEG.index(b"\xff\xda") : -2] * 300 + JPEG[-2:], False),
    "a colour beyond the palette": (SMALL[:66] + b"\xc8" + SMALL[67:], True),
    "pixels in the palette": (SMALL[:10] + b"\x37" + SMALL[11:], True),
    "pixels in the header": (SMALL[:10] + b"\x10" + SMALL[11:], False),
    "bytes after a BMP": (BMP + b"more", True),
    "a short tRNS": (with_chunk(chunk(b"tRNS", b"\1")), True),
    "a bomb in iTXt": (with_chunk(chunk(b"iTXt", b"a\0\1\0\0\0" + ZEROS)), True),
    "a bomb in zTXt": (with_chunk(chunk(b"zTXt", b"a\0\0" + ZEROS)), True),
    "a bomb in iCCP": (with_chunk(chunk(b"iCCP", b"a\0\0" + ZEROS)), True),
    "EXIF with a wrong checksum": (with_chunk(chunk(b"eXIf", oriented(6)[6:])[:-1] + b"\0"), True),
    "EXIF twice": (with_chunk(chunk(b"eXIf", oriented(6)[6:]) + chunk(b"eXIf", oriented(8)[6:])), True),
    "EXIF at the end": (with_chunk(chunk(b"eXIf", oriented(6)[6:]), last=True), True),
    "junk for EXIF": (with_chunk(chunk(b"eXIf", b"junk")), True),
    "half a picture": (PNG[:33] + chunk(b"IDAT", zlib.compress(bytes(193 * 15))) + PNG[-12:], False),
    "no end": (PNG[:-12], False),
    "much data": (with_chunk(chunk(b"IDAT", bytes(200_000))), False),
    "many chunks": (with_chunk(chunk(b"teST") * 12_000), False),
    "PQ": (with_chunk(chunk(b"cICP", bytes([9, 16, 0, 1]))), False),
    "HLG, with a wrong checksum": (with_chunk(chunk(b"cICP", bytes([9, 18, 0, 1]))[:-1] + b"\0"), False),
    "cICP of sRGB": (with_chunk(chunk(b"cICP", bytes([1, 13, 0, 1]))), True),
    "a large header": (PNG[:16] + struct.pack(">II", 99, 99) + PNG[24:], False),
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of damaged EXIF
@pytest.mark.parametrize("name", OF_ONE_MIND)
def test_a_damaged_file_is_the_same_to_python_and_the_server(decoder, name):
    contents, is_read = OF_ONE_MIND[name]
    if is_read:
        np.testing.assert_array_equal(decoder(tf.constant(contents))[0], read_image(contents) * np.uint16(257))
        return
    with pytest.raises(ValueError, match="The file"):
        read_image(contents)
    with pytest.raises(tf.errors.InvalidArgumentError):
        decoder(tf.constant(contents))


def test_a_small_file_that_announces_much_is_refused_before_it_is_decoded():
    trusting = tf.function(lambda contents: decode(contents, 10**9), input_signature=[tf.TensorSpec([], tf.string)])
    for contents in (announcing(PNG, 16, ">II"), announcing(JPEG, JPEG.index(b"\xff\xc0") + 5, ">HH")):
        with pytest.raises(tf.errors.InvalidArgumentError, match="announces more pixels than it can hold"):
            trusting(tf.constant(contents))


@settings(deadline=None, max_examples=300, derandomize=True, database=None)
@given(
    contents=st.sampled_from([*(saved(picture(5, 7), form, exif=oriented(6)) for form in ("PNG", "JPEG", "WEBP")), SMALL]),
    changes=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=3),
    checksums=st.booleans(),
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_python_and_the_server_read_no_two_pictures(decoder, contents, changes, checksums):
    """One of them may refuse what the other reads, see the guide; but of its pixels both have one opinion."""
    data = bytearray(contents)
    for place, value in changes:
        data[int(place * len(data))] = value
    if checksums and contents.startswith(b"\x89PNG"):
        at = 8
        while at + 12 <= len(data):
            length = min(int.from_bytes(data[at : at + 4]), len(data) - at - 12)
            data[at + 8 + length : at + 12 + length] = zlib.crc32(data[at + 4 : at + 8 + length]).to_bytes(4)
            at += 12 + length
    try:
        expected = read_image(bytes(data), 10_000)
        image, deep = decoder(tf.constant(bytes(data)))
    except (ValueError, tf.errors.InvalidArgumentError):
        return
    np.testing.assert_array_equal(image, expected * np.uint16(1 if deep else 257))


@pytest.mark.parametrize("version", [1, 2])
def test_onnx_gives_what_the_model_gives(exports, version, tmp_path, random):
    pytest.importorskip("tf2onnx")
    runtime = pytest.importorskip("onnxruntime")
    model = exports[1][version]
    export_onnx(model, tmp_path / "model.onnx")
    session = runtime.InferenceSession(tmp_path / "model.onnx")
    names = [output.name for output in session.get_outputs()]
    for size in ((2, 16, 24), (1, 13, 17)):
        image = random.random((*size, 3), "float32")
        expected = model(image)
        assert set(names) == set(expected)
        rows, columns = (context_indices(side) for side in size[1:])
        inputs = {"image": image} | ({"context": image[:, rows[:, None], columns]} if version == 2 else {})
        for name, value in zip(names, session.run(None, inputs)):
            error = np.abs(value - expected[name])  # what is denoised is thresholded: a rounding may keep a coefficient
            assert error.max() < (1e-3 if name in ("enhanced", "restored_reflectance") else 1e-5), name
            assert error.mean() < 1e-5, name


def test_a_version_that_exists_is_refused_and_settings_are_kept(exports):
    folder, models = exports
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    assert {path.name for path in folder.iterdir()} == {"1", "2", "models.config", "batching.config", "docker-compose.yml"}
    for version, message in ((1, "Version 1 .* exists"), (0, "servers expect 1 to"), (2**63 - 1, "servers expect 1 to")):
        with pytest.raises(ValueError, match=message):
            export_savedmodel(models[1], folder, version)
    for pixels in (0, -1):
        with pytest.raises(ValueError, match=f"1 pixel or more. Received max_pixels={pixels}"):
            export_savedmodel(models[1], folder, max_pixels=pixels)
    assert before == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


def test_names_of_versions_are_read_as_the_server_reads_them(tmp_path):
    for name in ("0003", "\u0667", "\u00b2", "-8", "9x", str(2**63)):  # a seven and a two in other scripts
        (tmp_path / name).mkdir()
    assert [version_path(tmp_path, version).name for version in (None, 7)] == ["4", "7"]
    with pytest.raises(ValueError, match="Version 3 .* exists"):
        version_path(tmp_path, 3)
    (tmp_path / str(2**63 - 2)).mkdir()
    with pytest.raises(ValueError, match="Version 9223372036854775807 .* servers expect 1 to 9223372036854775806"):
        version_path(tmp_path)


def test_only_ops_that_every_server_has(signatures):
    for signature in (signature for version in signatures.values() for signature in version.values()):
        graph = signature.graph.as_graph_def()
        nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
        assert len(nodes) > 100
        assert not {node.op for node in nodes if "PyFunc" in node.op or "Xla" in node.op}
        assert not any(holder.attr["_XlaMustCompile"].b for holder in (*nodes, *graph.library.function))


def test_a_version_holds_the_decoder_and_a_halving_of_the_exposure_once(exports):
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        graph = tf.compat.v1.saved_model.load(session, ["serve"], str(exports[0] / "2")).graph_def
    nodes = [node for function in graph.library.function for node in function.node_def]
    assert sum(node.op == "DecodeJpeg" for node in nodes) == 1
    assert sum(node.op == "Round" and node.attr["T"].type == tf.float64.as_datatype_enum for node in nodes) == 1


def test_the_messages_of_the_server_read_warmup_and_settings(exports):
    pytest.importorskip("tensorflow_serving")
    from google.protobuf import text_format
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    record = next(iter(tf.data.TFRecordDataset(str(exports[0] / "2/assets.extra/tf_serving_warmup_requests")))).numpy()
    request = PredictionLog.FromString(record).predict_log.request
    assert (request.model_spec.name, request.model_spec.signature_name) == ("retinex", "serving_default")
    assert pixels(tf.make_ndarray(request.inputs["image_bytes"])[0]).shape == (64, 64, 3)
    config = text_format.Parse((exports[0] / "models.config").read_text(), ModelServerConfig())
    assert config.model_config_list.config[0].name == "retinex"


def test_the_runtime_of_the_server_gives_the_same_bits(exports, tmp_path):
    """A loader of ours in C++ on the libraries of the tensorflow wheel, without Python and XLA."""
    if not shutil.which("g++"):
        pytest.skip("there is no g++")
    libraries = Path(tf.sysconfig.get_lib())
    options = [*tf.sysconfig.get_compile_flags(), "-std=c++17", "-w", f"-L{libraries}", f"-Wl,-rpath,{libraries}"]
    link = ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    loader = tmp_path / "loader"
    subprocess.run(["g++", Path(__file__).with_name("loader.cc"), "-o", loader, *options, *link], check=True)
    folder, models = exports
    files = [tmp_path / f"{number}.JPEG" for number in range(len(SIZES))]
    for path, size in zip(files, SIZES):
        picture(*size).save(path)
    for version, model in models.items():
        subprocess.run([loader, folder / str(version), tmp_path, *files], check=True, capture_output=True)
        for number, path in enumerate(files):
            np.testing.assert_array_equal(read_image(tmp_path / f"{number}.png"), enhance(path, model))
    files[0].write_bytes(b"hello")
    refused = subprocess.run([loader, folder / "1", tmp_path, *files], capture_output=True, text=True)
    assert refused.returncode == 1
    assert refused.stdout.startswith("INVALID_ARGUMENT: ")
    assert "Expected a JPEG, PNG, WebP or BMP file" in refused.stdout
