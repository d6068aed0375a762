import gc
import zlib

import numpy as np
import pytest
from PIL import Image

from retinex_keras.cli import main
from retinex_keras.recipes.natural import NaturalDecomNet, NaturalEnhanceNet, NaturalRetinexNet
from retinex_keras.recipes.paper import DecomNet, EnhanceNet, RetinexNet

# A graph has very many objects; to walk them as often as by default took 4 % of the tests' time.
gc.set_threshold(50_000, 20, 20)
FIRST = ["images", "dials", "inference", "export"]
FIRST += ["train", "workers", "cli", "notebooks", "natural", "conventions", "client", "benchmark", "guides"]


def pytest_collection_modifyitems(items):
    """At first the files of hypothesis, which is slow in a process that holds many models; then those that take minutes.

    At the end of the tests, neither of two processes then waits long for the other.
    """
    order = {f"test_{name}": place for place, name in enumerate(FIRST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(order)))


def seeded_weight(name, shape):
    """The weight of a variable of the original in the fixture, which follows from its name."""
    random = np.random.RandomState(zlib.crc32(name.encode()))
    if len(shape) == 1:
        return (0.05 * random.randn(*shape)).astype("float32")
    return (random.randn(*shape) * np.sqrt(1.0 / np.prod(shape[:-1]))).astype("float32")


@pytest.fixture(scope="session")
def original():
    """What the original TensorFlow 1 graph computes; `names` lists its variables in our order."""
    from pathlib import Path

    return dict(np.load(Path(__file__).with_name("retinexnet_tf1.npz")))


@pytest.fixture
def seeded(original):
    """A RetinexNet with the weights of the fixture, as the original has it: nothing is denoised."""
    model = RetinexNet(denoise=0)
    model.build((None, None, None, 3))
    for name, variable in zip(original["names"], model.weights, strict=True):
        variable.assign(seeded_weight(str(name), variable.shape))
    return model


@pytest.fixture
def tiny():
    """A RetinexNet with a few filters."""
    model = RetinexNet(DecomNet(4, 1), EnhanceNet(4))
    model.build((None, None, None, 3))
    return model


@pytest.fixture(scope="session")
def exports(tmp_path_factory):
    """A folder of two exported versions, and their models: 1 has the paper's networks, 2 natural ones."""
    from retinex_keras.serving.export import export_savedmodel  # here, since tests of JAX import this file without TensorFlow

    folder = tmp_path_factory.mktemp("exports")
    random = np.random.default_rng(0)
    paper = RetinexNet(DecomNet(4, 1), EnhanceNet(4))
    natural = NaturalRetinexNet(NaturalDecomNet(4, 1), NaturalEnhanceNet((4, 4, 4), 1, 4))
    for model in (paper, natural):
        model.build((None, None, None, 3))
        for variable in model.weights:  # some of them begin with zeros
            variable.assign(random.normal(0.0, 0.1, variable.shape))
    paper.enhance_net.output_conv.bias.assign([0.8])  # so that its pictures are not black
    paper.save(folder / "paper.keras")
    assert main(["export", str(folder / "versions"), "--weights", str(folder / "paper.keras")]) == 0
    export_savedmodel(natural, folder / "versions", max_pixels=2_500_000)
    return folder / "versions", {1: paper, 2: natural}


@pytest.fixture
def tiny_natural():
    """A model of the natural recipe with a few filters and random weights, so that each of them matters."""
    model = NaturalRetinexNet(NaturalDecomNet(4, 1), NaturalEnhanceNet((4, 6, 8), 1, 4))
    model.build((None, None, None, 3))
    random = np.random.default_rng(0)
    for variable in model.trainable_variables:
        variable.assign(random.normal(0, 0.7 / np.sqrt(np.prod(variable.shape[:-1])), variable.shape))
    return model


@pytest.fixture
def random():
    return np.random.default_rng(0)


@pytest.fixture
def photo(tmp_path, random):
    Image.fromarray(random.integers(0, 60, (13, 17, 3), dtype="uint8")).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def make_pairs(tmp_path):
    """Makes a folder of pairs of different content and size, as PNG: make_pairs(name, count)."""

    def make(name, count=5, size=(24, 20)):
        for side in ("low", "high"):
            (tmp_path / name / side).mkdir(parents=True)
        for i in range(count):
            random = np.random.default_rng(i)
            high = random.integers(0, 256, (size[1] + i % 3, size[0] + i % 2, 3), dtype="uint8")
            Image.fromarray(high).save(tmp_path / name / "high" / f"scene.{i}.png")
            Image.fromarray(high // 8).save(tmp_path / name / "low" / f"scene.{i}.png")
        return tmp_path / name

    return make
