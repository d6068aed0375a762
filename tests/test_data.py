import functools
import itertools
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from retinex_keras.data import pipeline
from retinex_keras.data.degrade import (
    compress,
    darken,
    normalize_exposure,
    normalize_saturation,
    saturation,
    soft_noise,
    uneven_light,
    wide_darken,
)
from retinex_keras.data.pairs import find_images, find_pairs, load_pairs, load_photos, load_scenes
from retinex_keras.data.pipeline import random_patch, training_patches, training_view, whole_pairs
from retinex_keras.imaging.pixels import LUMA
from retinex_keras.recipes.natural import lol


def quarter(pixels, rng):
    return pixels // 4


def batches(images, count, **options):
    pipeline = training_patches(images, **{"size": 8, "batch_size": 2, **options})
    return [tuple(side.numpy() for side in batch) for batch in itertools.islice(pipeline, count)]


def same(some, others):
    return all(np.array_equal(a, b) for x, y in zip(some, others, strict=True) for a, b in zip(x, y, strict=True))


@pytest.fixture
def numbered():
    """Six pairs of images; each pixel tells its image, row and column, and the high one is the low one plus 100."""
    y, x = np.mgrid[:12, :10].astype("uint8")
    lows = [np.stack([np.full_like(x, i), y, x], axis=-1) for i in range(6)]
    return [np.stack([low, low + 100]) for low in lows]


def test_pairs_are_matched_by_stem_across_formats(tmp_path):
    for side, suffix in (("low", ".png"), ("high", ".jpg")):
        (tmp_path / side).mkdir()
        for i, stem in enumerate(("10", "9", "a.b.1", "a.b.2")):
            Image.new("RGB", (8 + i, 8)).save(tmp_path / side / f"{stem}{suffix}")
        (tmp_path / side / "Thumbs.db").write_bytes(b"junk")
        (tmp_path / side / ".hidden.png").write_bytes(b"junk")
        (tmp_path / side / f"{side}.pdf").write_bytes(b"junk")
        (tmp_path / side / f"{side}.png").mkdir()
    pairs = find_pairs(tmp_path / "low", tmp_path / "high")
    assert [(low.name, high.name) for low, high in pairs] == [
        (f"{stem}.png", f"{stem}.jpg") for stem in ("10", "9", "a.b.1", "a.b.2")
    ]
    assert [pair.shape[2] for pair in load_pairs(tmp_path)] == [8, 9, 10, 11]


@pytest.mark.parametrize("side", ["low", "high"])
def test_missing_partner_names_the_file(make_pairs, side):
    folder = make_pairs("pairs")
    (folder / side / "scene.3.png").unlink()
    with pytest.raises(ValueError, match=r"scene\.3\.png: no image of the same name"):
        load_pairs(folder)


def test_different_sizes_name_the_files(make_pairs):
    folder = make_pairs("pairs")
    Image.new("RGB", (5, 6)).save(folder / "low" / "scene.1.png")
    with pytest.raises(ValueError, match=r"low/scene\.1\.png is 5x6 and .*high/scene\.1\.png is 25x21"):
        load_pairs(folder)


def test_all_unreadable_files_are_named(make_pairs):
    folder = make_pairs("pairs")
    for i in (0, 4):
        (folder / "high" / f"scene.{i}.png").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"2 of 5 cannot be used: .*scene\.0\.png.*scene\.4\.png"):
        load_pairs(folder)


def test_two_files_of_one_stem(make_pairs):
    folder = make_pairs("pairs")
    Image.new("RGB", (5, 6)).save(folder / "low" / "scene.1.jpg")
    with pytest.raises(ValueError, match="the same stem"):
        load_pairs(folder)


def test_empty_and_missing_folders(tmp_path):
    with pytest.raises(FileNotFoundError, match="no folder .*low"):
        load_pairs(tmp_path)
    (tmp_path / "low").mkdir()
    with pytest.raises(ValueError, match="holds no image"):
        load_pairs(tmp_path)


def test_16_bit_files_are_rounded_to_8(tmp_path):
    Image.fromarray(np.array([[1000, 65535]], "uint16")).save(tmp_path / "a.png")
    np.testing.assert_array_equal(load_photos(tmp_path)[0][0, 0, :, 0], [4, 255])


def test_whole_images_are_resized(make_pairs):
    pairs = load_pairs(make_pairs("pairs"), resize=16)
    assert {pair.shape for pair in pairs} == {(2, 16, 16, 3)}
    low, high = batches(pairs, 1, size=16)[0]
    assert low.shape == high.shape == (2, 16, 16, 3)


def test_cache_on_disk_gives_the_same_and_follows_changes(make_pairs, tmp_path):
    folder = make_pairs("pairs")
    in_memory = load_pairs(folder)
    for _ in range(2):
        cached = load_pairs(folder, cache=tmp_path / "cache")
        assert all(np.array_equal(pair, stored[:]) for pair, stored in zip(in_memory, cached, strict=True))
    stored = sorted((tmp_path / "cache").iterdir())
    assert len(stored) == 5
    stored[0].write_bytes(b"")
    stored[1].write_bytes(stored[1].read_bytes()[:200])  # as after a power cut: it is made again
    again = load_pairs(folder, cache=tmp_path / "cache")
    assert all(np.array_equal(pair, stored[:]) for pair, stored in zip(in_memory, again, strict=True))
    assert same(batches(in_memory, 4), batches(cached, 4))
    for side in ("low", "high"):
        Image.new("RGB", (30, 30), "red").save(folder / side / "scene.0.png")
    assert load_pairs(folder, cache=tmp_path / "cache")[0].shape == (2, 30, 30, 3)


def test_photos_that_cannot_be_read_are_named(make_pairs, capsys):
    folder = make_pairs("pairs", 1) / "low"
    for name in ("a.jxl", "b.x3f"):
        (folder / name).touch()
    with pytest.warns(UserWarning, match=r"Left out of .*low: a\.jxl \(It is a \.jxl file, .*\) and 1 more"):
        assert list(find_images(folder)) == ["scene.0"]


def test_the_cache_takes_names_of_any_length(tmp_path):
    Image.new("RGB", (9, 9)).save(tmp_path / f"{'n' * 250}.png")
    assert load_photos(tmp_path, cache=tmp_path / "cache")[0].shape == (1, 9, 9, 3)


def test_the_cache_holds_no_file_open(tmp_path):
    for i in range(40):
        Image.new("RGB", (9, 9)).save(tmp_path / f"{i}.png")
    files = len(list(Path("/proc/self/fd").iterdir()))
    photos = load_photos(tmp_path, cache=tmp_path / "cache")
    list(batches(photos, 3))
    assert len(photos) == 40
    assert len(list(Path("/proc/self/fd").iterdir())) < files + 20


def test_both_sides_get_the_same_patch_and_transform(numbered):
    for low, high in batches(numbered, 9):
        np.testing.assert_allclose(high - low, 100 / 255, atol=1e-6)
        assert low.shape == (2, 8, 8, 3)


def test_all_8_transforms_and_all_positions_occur(numbered):
    corners = set()
    for seed in range(2000):
        patch = random_patch(numbered[0][:1], 8, np.random.default_rng(seed))[0]
        corners.add((*patch[0, 0, 1:], *patch[0, -1, 1:]))
    assert len(corners) == 8 * 5 * 3  # transforms, rows, columns of the patch in a 12x10 image


def test_flips_and_rotations_keep_the_pixels(numbered):
    patch = random_patch(numbered[0][:, :8, :8], 8, np.random.default_rng(1))
    assert sorted(patch[0].reshape(-1, 3).tolist()) == sorted(numbered[0][0, :8, :8].reshape(-1, 3).tolist())


def test_every_epoch_is_a_new_order_of_the_whole_set(numbered):
    epochs = np.split(np.concatenate([low[:, 0, 0, 0] for low, _ in batches(numbered, 30)]), 10)
    images = [tuple(np.round(epoch * 255).astype(int)) for epoch in epochs]
    assert all(sorted(epoch) == [0, 1, 2, 3, 4, 5] for epoch in images)
    assert len(set(images)) > 5


def test_the_seed_decides_everything(numbered):
    first = batches(numbered, 7, seed=3)
    assert same(first, batches(numbered, 7, seed=3))
    assert not same(first, batches(numbered, 7, seed=4))


def test_a_pipeline_can_begin_at_any_epoch(numbered):
    """With 5 of 6 images an epoch leaves one out, and a batch never spans two epochs."""
    all_epochs = batches(numbered, 8, batch_size=5)
    assert same(all_epochs[3:], batches(numbered, 5, batch_size=5, first_epoch=3))


@pytest.mark.parametrize(("options", "message"), [({"size": 11}, "side of 10 pixels"), ({"batch_size": 7}, "from 1 to 6")])
def test_too_large_patches_and_batches(numbered, options, message):
    with pytest.raises(ValueError, match=message):
        batches(numbered, 1, **options)


def test_no_images_are_refused():
    with pytest.raises(ValueError, match="0 images give no batch"):
        training_patches([])


def place(worker, workers=2, replicas=2):
    return tf.distribute.InputContext(workers, worker, replicas)


def named(lows):
    """The dark patches of a batch by the number of their image."""
    return {int(low[0, 0, 0] * 255 + 0.5): low for low in lows}


def test_each_worker_sees_its_files_alone_and_cuts_them_as_one_process_would(numbered):
    alone = [named(lows) for lows, _ in batches(numbered, 12, batch_size=6)]
    for worker in (0, 1):
        mine = {"images": numbered[worker::2], "batch_size": 4, "input_context": place(worker), "steps": 1}
        shares = [named(lows) for lows, _ in batches(count=12, **mine)]
        assert {len(share) for share in shares} == {2}
        assert {image for share in shares for image in share} == {worker, worker + 2, worker + 4}
        for expected, share in zip(alone, shares, strict=True):
            for image, low in share.items():
                np.testing.assert_array_equal(low, expected[image])
        np.testing.assert_equal([named(lows) for lows, _ in batches(count=10, **mine, first_epoch=2)], shares[2:])


def test_shares_of_unequal_length_give_epochs_of_one_length(numbered):
    """Five images of two workers, with batches of two: two steps an epoch, each image once at most."""
    for worker, count in ((0, 3), (1, 2)):
        mine = numbered[worker:5:2]
        assert len(mine) == count
        lows = [low for low, _ in batches(mine, 6, batch_size=2, input_context=place(worker), steps=2)]
        for epoch in range(3):
            images = [image for low in lows[2 * epoch : 2 * epoch + 2] for image in named(low)]
            assert len(set(images)) == 2


def test_replicas_of_one_worker_share_the_batches_of_one_process(numbered):
    whole = batches(numbered, 4, batch_size=4)
    parts = batches(numbered, 8, batch_size=4, input_context=place(0, workers=1))
    joined = [tuple(map(np.concatenate, zip(*parts[i : i + 2]))) for i in range(0, 8, 2)]
    assert same(whole, joined)


def test_a_worker_opens_no_file_of_the_others(make_pairs):
    folder = make_pairs("pairs")
    pairs = find_pairs(folder / "low", folder / "high")
    expected = load_scenes(pairs)[1::2]
    for low, _ in pairs[::2]:
        low.write_bytes(b"junk")
    assert same(load_scenes(pairs[1::2]), expected)
    with pytest.raises(ValueError, match="3 of 5 cannot be used"):
        load_scenes(pairs)


def test_steps_beyond_the_images_are_refused(numbered):
    with pytest.raises(ValueError, match="6 images give 1 to 3 batches of 2. Received steps=4"):
        batches(numbered, 1, steps=4)
    with pytest.raises(ValueError, match="3 images give no batch of 4: use a batch_size from 1 to 6"):
        batches(numbered[::2], 1, batch_size=8, input_context=place(0))


def test_photos_get_dark_partners_and_mix_with_pairs(numbered):
    photos = [pair[1:] for pair in numbered[:3]]
    for low, high in batches(photos, 4):
        assert low.mean() < 0.6 * high.mean()
    mixed = batches(numbered[3:] + photos, 6)
    darkened = [not np.allclose(high - low, 100 / 255) for batch in mixed for low, high in zip(*batch)]
    assert 0 < sum(darkened) < len(darkened)
    assert same(mixed, batches(numbered[3:] + photos, 6))


def test_whole_pairs_come_one_by_one_at_their_size(make_pairs):
    pairs = load_pairs(make_pairs("pairs"))
    pipeline = whole_pairs(pairs)
    assert pipeline.cardinality() == 5
    for (low, high), pair in zip(pipeline, pairs, strict=True):
        np.testing.assert_array_equal(low[0], pair[0] / np.float32(255))
        np.testing.assert_array_equal(high[0], pair[1] / np.float32(255))


@pytest.mark.parametrize("make", [whole_pairs, functools.partial(training_patches, size=8, batch_size=1)])
@pytest.mark.parametrize(
    ("pair", "received"),
    [
        (np.zeros((2, 8, 8, 3), "uint16"), r"uint16 \(2, 8, 8, 3\)"),
        (np.zeros((2, 8, 8, 3), "float32"), r"float32 \(2, 8, 8, 3\)"),
        (np.zeros((8, 8, 3), "uint8"), r"uint8 \(8, 8, 3\)"),
        ((np.zeros((8, 8, 3), "uint8"),) * 2, r"tuple \(\)"),
    ],
)
def test_arrays_of_another_type_or_shape_are_refused(make, pair, received):
    """They would be scored as other pictures: whole numbers modulo 256, and floats as black."""
    with pytest.raises(ValueError, match=f"Expected uint8 arrays .*H, W, 3.*Received {received}"):
        make([pair])


GREY = np.full((64, 64, 3), 188, "uint8")  # 0.503 in linear light
CLEAN = {"white_balance": (1, 1), "shot_noise": (0, 0), "read_noise": (0, 0), "gamma": (1, 1)}


def test_darkening_is_a_factor_in_linear_light():
    dark = darken(GREY, 0, **CLEAN | {"exposure": (0.1, 0.1)})
    assert set(dark.ravel()) == {63}  # sRGB of 0.0503 is 0.2486 (IEC 61966-2-1)
    np.testing.assert_array_equal(darken(GREY, 0, **CLEAN | {"exposure": (1, 1)}), GREY)


def test_darkening_noise_has_the_stated_variance():
    options = CLEAN | {"exposure": (0.2, 0.2), "shot_noise": (1e-3, 1e-3), "read_noise": (2e-3, 2e-3)}
    dark = darken(np.full((400, 400, 3), 188, "uint8"), 0, **options).astype("float64") / 255
    linear = ((dark + 0.055) / 1.055) ** 2.4
    np.testing.assert_allclose(linear.mean(), 0.2 * 0.503, rtol=0.01)
    np.testing.assert_allclose(linear.var(), 1e-3 * 0.2 * 0.503 + 2e-3**2, rtol=0.05)


def test_darkening_white_balance_leaves_green():
    dark = darken(GREY, 0, **CLEAN | {"exposure": (0.1, 0.1), "white_balance": (2, 2)})
    assert dark[0, 0, 1] == 63
    assert dark[0, 0, 0] == dark[0, 0, 2] > 63


@pytest.mark.parametrize("image", [GREY / 255, GREY.astype("uint16"), GREY[..., 0], GREY[..., :2]])
def test_what_cannot_be_darkened_is_refused(image):
    with pytest.raises(ValueError, match=r"Expected a uint8 image \(H, W, 3\). Received"):
        darken(image, 0)


def test_darkening_is_seeded():
    np.testing.assert_array_equal(darken(GREY, 5), darken(GREY, 5))
    assert not np.array_equal(darken(GREY, 5), darken(GREY, 6))


def neighbours_correlate(image):
    """The correlation of the noise of neighbouring pixels of a flat image (H, W, 3)."""
    noise = image.astype("float64") - image.mean((0, 1))
    return float((noise[:, 1:] * noise[:, :-1]).mean() / max(noise.var(), 1e-9))


def test_soft_noise_is_shared_by_neighbours_and_channels(random):
    noises = [soft_noise(200, 300, random) for _ in range(20)]
    assert {noise.shape for noise in noises} == {(200, 300, 3)}
    np.testing.assert_allclose([noise.std() for noise in noises], 1, atol=0.04)
    np.testing.assert_allclose([noise.mean() for noise in noises], 0, atol=0.04)
    shared = [neighbours_correlate(noise) for noise in noises]
    assert -0.01 < min(shared) < 0.2
    assert 0.6 < max(shared) < 0.8  # exp(-1 / 4) = 0.78 at the greatest width
    np.testing.assert_allclose(neighbours_correlate(noises[0].swapaxes(0, 1)), shared[0], atol=0.02)
    channels = [np.corrcoef(noise.reshape(-1, 3).T)[[0, 0, 1], [1, 2, 2]] for noise in noises]
    np.testing.assert_allclose(np.ptp(channels, axis=1), 0, atol=0.05)
    assert 0.35 < np.min(channels) < 0.6
    assert np.max(channels) > 0.85


def test_all_noise_of_a_view_is_soft(monkeypatch):
    monkeypatch.setattr(pipeline, "compress", lambda image, rng: image)
    found = []

    def recorded(image, rng, light=None, noise=None):
        found.append((noise, light is not None))
        return image // 4

    monkeypatch.setattr(pipeline, "wide_darken", recorded)
    scene = np.full((1, 200, 240, 3), 200, "uint8")
    for seed in range(20):
        training_view(scene, 160, np.random.default_rng(seed))
    assert {uneven for noise, uneven in found} == {True, False}
    shared = []
    for noise, _ in found:
        patch, context = noise[: 160**2].reshape(160, 160, 3), noise[160**2 :].reshape(128, 128, 3)
        shared.append([neighbours_correlate(patch), neighbours_correlate(context)])
        np.testing.assert_allclose(*(np.corrcoef(part.reshape(-1, 3).T) for part in (patch, context)), atol=0.08)
    assert max(shared)[0] > 0.6
    assert all(apart < near + 0.03 for near, apart in shared)
    assert 0.1 < max(apart for near, apart in shared) < 0.6


def test_some_dark_images_of_pairs_get_noise_but_not_for_the_benchmark(monkeypatch):
    monkeypatch.setattr(pipeline, "compress", lambda image, rng: image)
    scene = np.stack([np.full((200, 200, 3), level, "uint8") for level in (60, 150)])
    lows = [training_view(scene, 160, np.random.default_rng(seed))[0][0] for seed in range(40)]
    noisy = [low for low in lows if 25 < low.mean() < 130 and np.ptp(low)]
    assert 3 < len(noisy) < 20
    assert max(neighbours_correlate(low) for low in noisy) > 0.4
    for seed in range(20):
        assert np.ptp(lol.view(scene, 160, np.random.default_rng(seed))[0][0], axis=(0, 1)).max() == 0


def test_a_view_is_a_patch_with_the_context_of_a_part_around_it(monkeypatch):
    """The pixels of a synthetic scene tell where they were taken from."""
    monkeypatch.setattr(pipeline, "normalize_exposure", lambda image, mean: image)
    monkeypatch.setattr(pipeline, "normalize_saturation", lambda image, own, seen: image)
    monkeypatch.setattr(pipeline, "compress", lambda image, rng: image)
    rows, columns = np.mgrid[:100, :120].astype("uint8")
    high = np.stack([rows, columns, np.full_like(rows, 200)], axis=-1)
    scene = np.stack([high // 2, high])
    kinds = []
    for seed in range(60):
        patches, context = training_view(scene, 48, np.random.default_rng(seed), degradation=quarter)
        assert patches.shape == (2, 48, 48, 3)
        assert context.shape == (128, 128, 3)
        low, high = patches
        kinds.append(next((k for k in (1, 2, 4) if np.array_equal(low, high // k)), "exposed"))
        assert len(np.unique(high.reshape(-1, 3), axis=0)) == 48 * 48  # a patch of neighbours, not one pixel twice
        if kinds[-1] == 1:
            extent = np.ptp(context.reshape(-1, 3), axis=0)
            assert 60 <= sorted(extent)[1] + 1 <= 120
    assert set(kinds) == {1, 2, 4, "exposed"}
    assert kinds.count(2) > kinds.count("exposed") > 0


def test_the_views_for_the_benchmark_are_the_pairs_as_they_are():
    high = np.stack([*np.mgrid[:100, :120].astype("uint8"), np.full((100, 120), 200, "uint8")], axis=-1)
    own = 0
    for seed in range(60):
        (low, reference), _ = lol.view(np.stack([high // 2, high]), 48, np.random.default_rng(seed))
        assert len(np.unique(reference.reshape(-1, 3), axis=0)) == 48 * 48
        assert (reference[..., 2] == 200).all()  # neither its exposure nor its colours are changed
        own += np.array_equal(low, reference // 2)
        assert not np.array_equal(low, reference)
    assert 35 < own < 55  # the others are brighter or darker


@pytest.mark.parametrize("count", [1, 2])
def test_a_dim_scene_is_shown_as_it_is_twice_as_often(count):
    shares = []
    for level in (90, 120):
        scene = np.stack([np.full((16, 16, 3), value, "uint8") for value in (level // 4, level)[-count:]])
        views = (training_view(scene, 16, np.random.default_rng(seed))[0] for seed in range(120))
        shares.append(np.mean([np.array_equal(low, high) for low, high in views]))
    assert 0.2 < shares[0] < 0.4
    assert 0.08 < shares[1] < 0.2


def test_a_view_brings_the_exposure_of_the_reference_most_of_the_way_to_the_mean():
    scene = np.stack([np.full((40, 40, 3), 20, "uint8"), np.full((40, 40, 3), 60, "uint8")])
    most = round(255 * (60 / 255) ** 0.15 * 0.47**0.85)
    views = [training_view(scene, 16, np.random.default_rng(seed))[0] for seed in range(60)]
    assert {(int(high.min()), int(high.max())) for low, high in views} == {(most, most), (60, 60)}
    for low, high in views:
        assert (high.max() == 60) == np.array_equal(low, high)  # what is bright enough stays as it is
    photos = [training_view(scene[1:], 16, np.random.default_rng(seed), lambda image, _: image // 8)[0] for seed in range(60)]
    assert {int(high.max()) for low, high in photos if low.max() == 7 and high.std() == 0} == {most}
    values = np.arange(256, dtype="uint8")[:, None].repeat(3, axis=1)
    np.testing.assert_array_equal(normalize_exposure(values, 0.47), values)
    assert normalize_exposure(values, 0.9).mean() < values.mean() < normalize_exposure(values, 0.2).mean()
    for mean in (0, 1):
        assert list(normalize_exposure(values, mean)[[0, 255], 0]) == [0, 255]


def test_normalizing_the_exposure_keeps_the_ratios_of_the_channels():
    colours = np.array([[40, 80, 120], [80, 40, 20], [250, 30, 20]], "uint8")
    brighter = normalize_exposure(colours, 0.1)
    assert (brighter[:2].sum(axis=1) > 1.3 * colours[:2].sum(axis=1)).all()
    np.testing.assert_allclose(brighter[:2] / colours[:2], (brighter[:2] / colours[:2])[:, :1].repeat(3, axis=1), rtol=0.02)
    assert list(brighter[2]) == [255, 31, 20]  # no further than its brightest channel allows


@pytest.mark.parametrize(("factor", "stays"), [(1.0, False), (1.3, True), (0.5, False), (0.1, False), (6.0, False)])
def test_normalizing_the_saturation_goes_a_sixth_of_the_way(factor, stays):
    """The reference has `factor` of the strength of its dark image."""
    scene = np.full((16, 16, 3), (150, 100, 80), "uint8")
    own = saturation(scene)
    np.testing.assert_allclose(own, np.abs(scene[0, 0] - scene[0, 0] @ LUMA).mean() / (scene[0, 0] @ LUMA), rtol=1e-6)
    evened = normalize_saturation(scene, own, own / factor)
    assert stays == np.array_equal(evened, scene)
    assert 0.79 < saturation(evened) / own < 1.41  # never far
    if factor in (0.5, 1.0):
        np.testing.assert_allclose(saturation(evened) / own, (1.3 / factor) ** (1 / 6), rtol=0.02)
    np.testing.assert_allclose(evened @ LUMA, scene @ LUMA, atol=1)


def test_the_saturation_of_a_grey_scene_and_of_noise(random):
    black, grey = np.zeros((64, 64, 3), "uint8"), np.full((64, 64, 3), 90, "uint8")
    assert saturation(black) == saturation(grey) == 0
    np.testing.assert_array_equal(normalize_saturation(grey, 0.0, 0.5), grey)
    noise = np.clip(np.round(20 + 5 * random.standard_normal((64, 64, 3))), 0, 255).astype("uint8")
    assert saturation(noise) < 0.04 < 0.1 < np.abs(noise - (noise @ LUMA)[..., None]).mean() / 20


def test_a_pair_has_its_saturation_normalized_by_its_own_dark_image():
    scene = np.stack([np.full((40, 40, 3), colour, "uint8") for colour in ((30, 20, 10), (130, 120, 110))])
    own, seen = (saturation(np.broadcast_to(image[:1, :1], (8, 8, 3))) for image in scene[::-1])
    views = [training_view(scene, 16, np.random.default_rng(seed), quarter)[0] for seed in range(60)]
    factors = [saturation(high) / own for low, high in views if not np.array_equal(low, high)]
    boosted = np.isclose(factors, 1.4, rtol=0.05)
    assert np.isclose(np.array(factors)[~boosted], 1.0, rtol=0.05).all()
    assert 0 < (~boosted).sum() < 15


def test_a_photo_is_darkened_by_uneven_light_too(random):
    """A flat scene shows its light; the patch and its context lie under the same one, and the reference under a weaker one."""
    scene = np.full((1, 128, 128, 3), 200, "uint8")
    flat = 0
    for seed in range(60):
        (low, high), context = training_view(scene, 128, np.random.default_rng(seed))
        if np.ptp(high):
            assert high.min() > 100  # a photo is not changed in any other way
            assert low.mean() < high.mean()
            assert np.corrcoef(low.mean(-1).ravel(), high.mean(-1).ravel())[0, 1] > 0.6
        else:
            assert (high == (200 if low.max() == 200 else 129)).all()  # normalized, but where it is shown as it is
        low, context = (cv.astype("float32").reshape(8, 16, 8, 16, 3).mean((1, 3)) for cv in (low, context))
        np.testing.assert_allclose(low, context, rtol=0.3, atol=6)
        flat += np.ptp(context.mean(-1)) < 0.25 * context.mean() + 3
    assert 20 < flat < 45


def test_the_light_is_that_of_the_patch_and_of_the_whole_scene(monkeypatch):
    y, x = np.mgrid[:256, :256].astype("uint8")
    scene = np.stack([y, x, 255 - y], axis=-1)[None]  # a pixel tells its place
    seen = []
    monkeypatch.setattr(pipeline, "uneven_light", lambda rng, *windows: seen.append(windows) or uneven_light(rng, *windows))
    for seed in range(20):
        training_view(scene, 64, np.random.default_rng(seed))
    assert len(seen) > 4
    for (rows, columns, patch), (all_rows, all_columns, whole) in seen:
        assert patch.shape == (64, 64, 3)
        assert whole.shape == (128, 128, 3)
        nearest = [abs(places[:, None] - few).argmin(0) for places, few in ((all_rows, rows), (all_columns, columns))]
        assert abs(whole[np.ix_(*nearest)].astype(int) - patch).max() <= 2


def test_uneven_light_on_a_flat_scene_is_smooth_and_has_spots():
    places, scene = np.linspace(0, 1, 200), np.full((200, 200, 3), 90, "uint8")
    for seed in range(20):
        (light,) = uneven_light(np.random.default_rng(seed), (places, places, scene))
        assert 0.01 <= light.min() < 0.5
        assert 0.4 < light.max() <= 1
        assert max(abs(np.diff(light, axis=axis)).max() for axis in (0, 1)) < 0.1


def test_a_part_of_a_scene_lies_under_the_light_of_the_whole(random):
    places, scene = np.linspace(0, 1, 80), random.integers(0, 256, (8, 8, 3), "uint8").repeat(10, axis=0).repeat(10, axis=1)
    part = places[50:70], places[10:30], scene[50:70, 10:30]
    for seed in range(20):
        cut, whole = uneven_light(np.random.default_rng(seed), part, (places, places, scene))
        np.testing.assert_allclose(cut, whole[50:70, 10:30], rtol=1e-9)


def test_some_lights_end_where_their_object_ends():
    places, scene = np.linspace(0, 1, 100), np.full((100, 100, 3), 30, "uint8")
    scene[30:70, 20:80] = 140, 120, 60
    edges, inside = [], []
    for seed in range(40):
        (light,) = uneven_light(np.random.default_rng(seed), (places, places, scene))
        edges.append(light[50, 20] / light[50, 19])
        inside.append(light[50, 21] / light[50, 20])
    assert max(edges) > 4  # the object is lit, the street is not
    assert min(edges) < 0.5
    assert np.isclose(edges, 1, rtol=0.3).sum() > 14  # others light both, or are elsewhere
    np.testing.assert_allclose(inside, 1, rtol=0.3)


def test_compressing_keeps_the_picture_about():
    image = np.stack(np.broadcast_arrays(np.arange(40)[:, None], np.arange(50) * 3, 90), axis=-1).astype("uint8")
    copies = [compress(image, np.random.default_rng(seed)) for seed in range(8)]
    for copy in copies:
        assert copy.shape == image.shape
        assert copy.dtype == np.uint8
        assert 0.1 < abs(copy.astype(int) - image).mean() < 5
    assert len({copy.tobytes() for copy in copies}) == 8
    black = [compress(np.zeros((64, 64, 3), "uint8"), np.random.default_rng(seed)) for seed in range(8)]
    assert {int(picture.max()) == 0 for picture in black} == {True, False}  # blotches of colour in some


def test_patches_with_context_are_fed_and_seeded(numbered):
    first, second = (next(iter(training_patches(numbered, 10, 4, seed=3, view=training_view))) for _ in range(2))
    (low, context), high = first
    assert (low.shape, context.shape, high.shape) == ((4, 10, 10, 3), (4, 128, 128, 3), (4, 10, 10, 3))
    for one, other in zip((low, context, high), (*second[0], second[1])):
        np.testing.assert_array_equal(one, other)


def test_wide_darkening_reaches_from_black_to_bright():
    grey = np.full((8, 8, 3), 128, "uint8")
    levels = [wide_darken(grey, seed).mean() for seed in range(200)]
    assert min(levels) < 12
    assert 60 < max(levels) < 83  # a quarter of the light at most
