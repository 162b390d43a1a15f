"""Learning rates at the points that the cards' formulas give, computed by hand."""

import math

import pytest
from embedome.training.recipes import RECIPES
from embedome.training.schedules import Cosine, InverseSquareRoot, Linear

ESM1NV, PROTT5NV, ANKH = (RECIPES[name].schedule for name in ("esm1nv", "prott5nv", "ankh2-ext2"))


@pytest.mark.parametrize(
    ("schedule", "step", "expected"),
    [
        (ESM1NV, 0, 0),
        (ESM1NV, 250, 1e-4),
        (ESM1NV, 500, 2e-4),
        # Half way down the cosine.
        (ESM1NV, 500 + 949_500 // 2, 1.1e-4),
        (ESM1NV, 350_000, 2e-5 + 1.8e-4 * (1 + math.cos(math.pi * 349_500 / 949_500)) / 2),
        (ESM1NV, 950_000, 2e-5),
        (ESM1NV, 957_610, 2e-5),
        (ESM1NV, 999_999, 2e-5),
        (PROTT5NV, 0, 1e-4 / 10_001),
        (PROTT5NV, 10_000, 1e-4),
        (PROTT5NV, 40_003, 1e-4 * math.sqrt(10_001 / 40_004)),
        (PROTT5NV, 970_189, 1e-4 * math.sqrt(10_001 / 970_190)),
        (PROTT5NV, 1_000_001, 0),
        (ANKH, 0, 0),
        (ANKH, 5_000, 1e-3),
        (ANKH, 10_000, 2e-3),
        (ANKH, ANKH.steps, 0),
        (ANKH, (ANKH.steps + 10_000) // 2, 1e-3),
        (Linear(1.0, 10, 110), 60, 0.5),
        (Cosine(3e-3, 6e-5, 40, 940), 0, 3e-3 / 41),
        (Cosine(3e-3, 6e-5, 40, 940), 40, 3e-3),
        (Cosine(3e-3, 6e-5, 40, 940), 490, 1.53e-3),
        (Cosine(3e-3, 6e-5, 40, 940), 940, 6e-5),
    ],
)
def test_rates_by_value(schedule, step, expected):
    assert schedule.rate(step) == pytest.approx(expected, rel=1e-6, abs=1e-15)


def test_the_point_that_the_card_s_steps_give():
    assert ESM1NV.rate(350_000) == pytest.approx(1.46e-4, abs=5e-7)


@pytest.mark.parametrize("schedule", [ESM1NV, PROTT5NV, ANKH, RECIPES["demo"].schedule])
def test_rates_rise_then_fall_and_never_leave_their_bounds(schedule):
    rates = [schedule.rate(step) for step in range(0, schedule.steps + 1, max(1, schedule.steps // 5000))]
    top = rates.index(max(rates))
    assert all(0 <= rate <= schedule.peak for rate in rates)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)


@pytest.mark.parametrize("schedule", [ESM1NV, PROTT5NV, ANKH])
def test_a_schedule_over_other_steps_keeps_its_shape(schedule):
    short = schedule.scaled(schedule.steps // 100)
    for part in (0.05, 0.3, 0.7, 0.99):
        expected = schedule.rate(round(part * schedule.steps))
        # A square root falls from where the warm-up ended: rates are relative to that.
        assert short.rate(round(part * short.steps)) == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(
    "schedule", [Cosine(1, 0, 500, 1000, 300), InverseSquareRoot(1, 100, 1000), Linear(1, 10, 1000)]
)
def test_a_schedule_over_one_step_has_a_rate(schedule):
    assert 0 <= schedule.scaled(1).rate(0) <= 1
