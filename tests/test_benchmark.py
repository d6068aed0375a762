import dataclasses

import pytest

from retinex_keras.evaluation import benchmark
from retinex_keras.recipes import shipped_recipes
from retinex_keras.recipes.paper import RetinexNet
from retinex_keras.recipes.simple import SimpleCNN


def test_it_prints_and_returns_what_it_measured(monkeypatch, capsys):
    tiny = SimpleCNN(4, 2)
    tiny.build((None, None, None, 3))
    monkeypatch.setitem(benchmark.SIZES, "small", (16, 24))
    small = {"filters": 4, "batch_size": 2, "patch_size": 16}
    recipes = [dataclasses.replace(recipe, defaults={**recipe.defaults, **small}) for recipe in shipped_recipes().values()]
    results = benchmark.benchmark({"tiny": tiny}, recipes, ["small"], runs=1)
    printed = capsys.readouterr().out
    assert f"tiny, small: {results['tiny small seconds']:.3f} s" in printed
    assert "times the bare graph" in printed
    for what in ("paper, EnhanceNet, 16x16", "natural, NaturalRetinexNet, 16x16", "simple, data, 16x16"):
        assert f"{what} patches/s: {results[f'{what} patches/s']:.0f}" in printed
    assert all(value > 0 for value in results.values())


def test_the_papers_network_takes_271_300_multiply_adds_a_pixel():
    """The original's takes 283,000, since it enlarges the levels before its last two convolutions."""
    model = RetinexNet(denoise=0)
    model.build((None, None, None, 3))
    assert benchmark._flops(model, 96, 96) / 2 / 96**2 == pytest.approx(271_300, rel=0.001)
