"""Recipes against the numbers of the model cards and of their code, and the steps they scale to."""

from dataclasses import replace

import pytest
from embedome.common.errors import UserError
from embedome.models.registry import find_entry
from embedome.training.objectives import BertMasks, LegacyMasks, SpanCorruption
from embedome.training.recipes import RECIPES, Adafactor, Adam, Phase, find_recipe


def test_esm1nv_is_the_card_s():
    recipe = find_recipe("esm1nv")
    assert recipe.objective == BertMasks(rate=0.15, masked=0.8, replaced=0.1)
    assert recipe.optimiser == Adam(betas=(0.9, 0.98), weight_decay=0.01, eps=1e-8)
    schedule = recipe.schedule
    assert (schedule.peak, schedule.lowest, schedule.warm_up, schedule.tail) == (2e-4, 2e-5, 500, 50_000)
    # 176 GPUs, then 144, with 370 sequences each.
    assert recipe.phases == (Phase(349_500, sequences=65_120), Phase(957_610, sequences=53_280))
    assert (recipe.residues, recipe.dropout, recipe.average, recipe.clip) == (510, 0.1, 47, 1.0)
    assert find_entry(recipe.model).sizes["positions"] == 512


def test_esm1nv_1024_differs_in_its_length_alone():
    recipe = find_recipe("esm1nv-1024")
    assert (recipe.residues, find_entry(recipe.model).sizes["positions"]) == (1022, 1024)
    assert (recipe.objective, recipe.phases) == (RECIPES["esm1nv"].objective, RECIPES["esm1nv"].phases)


def test_the_legacy_recipe_is_that_of_the_code_of_the_time():
    assert find_recipe("esm1nv-legacy").objective == LegacyMasks(rate=0.1, masked=0.5)


def test_prott5nv_is_the_card_s():
    recipe = find_recipe("prott5nv")
    assert recipe.objective == SpanCorruption(rate=0.15)
    assert recipe.optimiser == Adam(betas=(0.9, 0.999), weight_decay=0.01, eps=1e-8)
    assert (recipe.schedule.peak, recipe.schedule.warm_up) == (1e-4, 10_000)
    assert recipe.phases == (Phase(970_189, sequences=2688),)
    assert (recipe.residues, recipe.dropout, recipe.clip) == (510, 0.1, 1.0)


def test_ankh2_ext2_is_the_card_s():
    recipe = find_recipe("ankh2-ext2")
    assert recipe.objective == SpanCorruption(rate=0.2)
    assert recipe.optimiser == Adafactor()
    assert (recipe.schedule.peak, recipe.schedule.warm_up) == (0.002, 10_000)
    assert [phase.sequences for phase in recipe.phases] == [1024]
    assert recipe.steps * 1024 == pytest.approx(45 * 60e6, rel=1e-6)
    assert (recipe.residues, recipe.dropout) == (511, 0.0)


def test_the_demo_is_the_measured_run_s():
    recipe = find_recipe("demo")
    assert dict(recipe.sizes) == {"layers": 3, "hidden": 128, "heads": 4, "feed_forward": 512}
    assert recipe.optimiser.adam == Adam(betas=(0.9, 0.98), weight_decay=0.01)
    assert (recipe.schedule.peak, recipe.schedule.warm_up, recipe.schedule.lowest) == (3e-3, 40, 6e-5)
    assert recipe.phases == (Phase(707, tokens=2048, window=128), Phase(943, tokens=2048, window=384))


def test_the_laptop_s_is_the_demo_s_with_larger_batches_and_a_rate_to_match():
    demo, laptop = find_recipe("demo"), find_recipe("laptop")
    assert laptop.phases == (Phase(3000, tokens=4096, window=128), Phase(4000, tokens=4096, window=384))
    assert (laptop.schedule.peak, laptop.schedule.warm_up, laptop.schedule.lowest) == (4e-3, 40, 8e-5)
    assert laptop == replace(demo, name="laptop", phases=laptop.phases, schedule=laptop.schedule, every=500)


@pytest.mark.parametrize("name", [name for name in RECIPES if name not in ("demo", "laptop")])
def test_founding_recipes_say_what_their_sources_leave_open(name):
    assert RECIPES[name].open


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=lambda recipe: recipe.name)
def test_other_steps_keep_the_shape(recipe):
    short = recipe.scaled(100)
    assert short.steps == 100
    assert [each.until / 100 for each in short.phases] == pytest.approx(
        [each.until / recipe.steps for each in recipe.phases], abs=0.01
    )
    assert short.schedule.steps / 100 == pytest.approx(recipe.schedule.steps / recipe.steps, abs=0.01)


def test_a_recipe_that_is_not_known_is_an_error_that_lists_them():
    with pytest.raises(UserError, match=r"'esm2'; expected one of esm1nv, esm1nv-1024, .*demo"):
        find_recipe("esm2")
