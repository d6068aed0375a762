import csv
import json

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from retinex_keras.cli import main
from retinex_keras.evaluation import baselines
from retinex_keras.evaluation.scores import PROTOCOL, compare, report, score, score_pairs, score_results
from retinex_keras.imaging.read import read_image
from retinex_keras.inference import enhance


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
    }
    assert scores == pytest.approx(expected, rel=1e-3)


def test_rows_are_the_images_and_the_table_ends_with_the_means(make_pairs, tiny):
    folder = make_pairs("pairs", 3)
    rows = score_pairs(folder / "low", folder / "high", tiny)
    assert [row["image"] for row in rows] == ["scene.0", "scene.1", "scene.2"]
    second = enhance(folder / "low" / "scene.1.png", tiny), read_image(folder / "high" / "scene.1.png")
    assert {**rows[1], **score(*second)} == rows[1]
    last = report(rows, "about").splitlines()[-1].split()
    assert last[:2] == ["mean", f"{np.mean([row['PSNR'] for row in rows]):.2f}"]


def test_pictures_of_another_program(make_pairs, tiny):
    folder = make_pairs("pairs", 3)
    rows = score_results(folder / "low", folder / "high")
    picture, reference = (read_image(folder / side / "scene.2.png") for side in ("low", "high"))
    assert rows[2] == {"image": "scene.2", "size": "24x22", **score(picture, reference)}
    assert "seconds" not in report(rows, "about").splitlines()[2]


def test_csv_and_json_hold_protocol_rows_and_means(make_pairs):
    folder = make_pairs("pairs", 3)
    rows = score_results(folder / "low", folder / "high")
    as_json = json.loads(report(rows, "about", "json"))
    assert (as_json["about"], as_json["protocol"]) == ("about", PROTOCOL)
    assert as_json["images"] == rows
    assert as_json["mean"]["PSNR"] == pytest.approx(np.mean([row["PSNR"] for row in rows]))
    about, protocol, *lines = report(rows, "about", "csv").splitlines()
    assert (about, protocol) == ("# about", f"# {PROTOCOL}")
    table = list(csv.DictReader(lines))
    assert [row["image"] for row in table] == ["scene.0", "scene.1", "scene.2", "mean"]
    assert float(table[3]["SSIM RGB"]) == as_json["mean"]["SSIM RGB"]


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
    assert "pip install 'retinex_keras[baselines]'" in error
    assert error.count("\n") == 1
