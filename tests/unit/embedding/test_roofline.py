"""Predicted seconds of kernels and batches, against sums by hand; the presets hold to what is predicted."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from embedome.cli.plan import load_planned_encoder
from embedome.common.errors import UserError
from embedome.embedding.cost import CostModel
from embedome.embedding.length_histogram import Lengths, uniref50_lengths
from embedome.embedding.roofline import (
    DEVICES,
    LAUNCHES,
    Device,
    batch_seconds,
    computing_seconds,
    costed_lengths,
    find_device,
    kernel_seconds,
    predict,
)
from embedome.models.encoders.passes import ATTENTION, BIASED_ATTENTION, PASS, PRODUCT, Kernel
from helpers.paths import ROOT

# Those that say how to embed.
PRESETS = [path for path in sorted((ROOT / "presets").glob("*.yaml")) if "cost" in yaml.safe_load(path.read_text())]
# One tile of 128 x 256 at a time by each of ten processors, 1e12 operations and 1e9 bytes a second.
SLOW = Device("slow", peak=2e12, bandwidth=2e9, memory=1e9, processors=10, products=1e12, passes=1e9)


def test_a_pass_takes_its_bytes_or_the_shortest_time() -> None:
    assert kernel_seconds(Kernel(PASS, 0, 5_000_000), SLOW) == pytest.approx(5e-3 + 1e-6)
    assert kernel_seconds(Kernel(PASS, 0, 5), SLOW) == pytest.approx(3e-6)


def test_a_product_takes_whole_waves_of_whole_tiles() -> None:
    """1,281 rows are 11 tiles, one more than there are processors: as long as 20 tiles."""
    one_wave, two_waves = (Kernel(PRODUCT, 2 * rows * 256 * 768, 0, (rows, 256, 768)) for rows in (1280, 1281))
    # A wave is 10 tiles; of the peak, 768 / (768 + 192) are reached.
    wave = 2 * 1280 * 256 * 768 / 1e12 / (768 / 960)
    assert computing_seconds(one_wave, SLOW) == pytest.approx(wave)
    assert computing_seconds(two_waves, SLOW) == pytest.approx(2 * wave)
    # Of more bytes than operations it takes the time of the bytes.
    assert kernel_seconds(replace(one_wave, bytes=10**9), SLOW) == pytest.approx(1 + 1e-6)


def test_attention_takes_whole_blocks_and_longer_with_a_bias() -> None:
    """129 tokens are two blocks of 128 without a bias, and three of 64 with one."""
    work = 4 * 2 * 3 * 129 * 129 * 64
    plain, biased = (Kernel(kind, work, 0, (2, 3, 129, 64)) for kind in (ATTENTION, BIASED_ATTENTION))
    assert computing_seconds(plain, SLOW) == pytest.approx(work * (256 / 129) ** 2 / (1e12 * 330 / 790 * 256 / 320))
    assert computing_seconds(biased, SLOW) == pytest.approx(work * (192 / 129) ** 2 / (1e12 * 150 / 790))


def test_a_batch_waits_for_the_host_where_kernels_are_short() -> None:
    short, long = Kernel(PASS, 0, 5), Kernel(PASS, 0, 5_000_000)
    found = batch_seconds(Counter({short: 100, long: 1}), SLOW)
    assert found.device == pytest.approx(100 * 3e-6 + 5e-3 + 1e-6)
    assert (found.total, found.bound) == (found.device, PASS)
    found = batch_seconds(Counter({short: 100}), SLOW)
    assert found.total == pytest.approx(100 * 12e-6 + 0.3e-3)
    assert found.bound == LAUNCHES


def test_what_holds_a_gpu_up_follows_its_memory_and_its_arithmetic() -> None:
    encoder, longest = load_planned_encoder("esm1nv")
    device = DEVICES["H200"]
    assert predict(encoder, device, longest, 285).batch.bound == PRODUCT
    assert predict(encoder, replace(device, passes=device.passes / 10), longest, 285).batch.bound == PASS
    assert predict(encoder, replace(device, products=1e18, passes=1e15), longest, 285).batch.bound == LAUNCHES


@pytest.mark.slow
def test_the_cost_is_of_the_time_of_a_batch() -> None:
    """Ten times the arithmetic and the bytes per second take a tenth of the time, beside gaps between kernels."""
    encoder, _ = load_planned_encoder("esm2-650m")
    device = DEVICES["A100"]
    cost = predict(encoder, device, 1022, 285).cost
    slower = predict(encoder, replace(device, products=device.products / 10, passes=device.passes / 10), 1022, 285).cost
    assert slower.linear / cost.linear == pytest.approx(10, rel=0.05)
    assert cost.longest == 1022
    # 1.3 GFLOP a residue: between 35 and 75 % of what products reach.
    seconds = cost.linear * 300 + cost.quadratic * 300**2
    assert 0.35 < 300 * 1.346e9 / seconds / device.products < 0.75


def test_lengths_end_where_the_model_ends() -> None:
    assert max(costed_lengths(510)) == 510
    assert max(costed_lengths(100)) == 100
    assert costed_lengths(20) == [20]
    assert max(costed_lengths(None)) == 3000


def test_a_gpu_is_found_by_its_name() -> None:
    assert find_device("a100") is DEVICES["A100"]
    with pytest.raises(UserError, match="no GPU is called 'T4'; expected one of H200, H100, A100, L40S"):
        find_device("T4")


def test_what_is_assumed_stays_below_the_data_sheet() -> None:
    for device in DEVICES.values():
        assert 0.7 < device.products / device.peak < 0.95
        assert 0.7 < device.passes / device.bandwidth < 0.95


def test_a_model_that_does_not_fit_is_refused() -> None:
    encoder, longest = load_planned_encoder("esm2-650m")
    with pytest.raises(UserError, match="the model takes 1 GB in bfloat16, more than the 1 GB of an slow"):
        predict(encoder, SLOW, longest, 285)


# Presets


def shard_minutes(path: Path) -> dict[str, tuple[float, int]]:
    """Predicted minutes of each shard, and shards, by split, of UniRef50 with a preset's filter and cost."""
    config = yaml.safe_load(path.read_text())
    lengths, criteria = uniref50_lengths(), config["filter"]
    kept = lengths.length >= criteria["min_length"]
    if criteria["max_length"] is not None:
        kept &= lengths.length <= criteria["max_length"]
    used = Lengths(lengths.length[kept], lengths.count[kept])
    costs = CostModel(**config["cost"]).picoseconds(used.length) * 1e-12
    mean = float((costs * used.count).sum() / used.sequences)
    # bionemo draws before the filter: of what is drawn, as large a share is kept.
    share = used.sequences / lengths.sequences if config["split"].get("length_filter") == "after" else 1.0
    sizes = {split: config["split"][split] * share for split in ("val", "test")}
    sizes["train"] = used.sequences - sum(sizes.values())
    return {split: (size * mean / 60 / config["shard"][split], config["shard"][split]) for split, size in sizes.items()}


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
def test_a_shard_of_a_preset_is_10_to_60_minutes(path: Path) -> None:
    """And a split of less than 10 minutes is one shard."""
    for split, (minutes, shards) in shard_minutes(path).items():
        assert minutes <= 60, split
        assert minutes >= 10 or shards == 1, split


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.stem)
@pytest.mark.slow
def test_the_cost_of_a_preset_is_what_plan_prints(path: Path) -> None:
    config = yaml.safe_load(path.read_text())
    given = CostModel(**config["cost"])
    # A pretraining preset embeds with the architecture of the same card.
    encoder, held = load_planned_encoder(path.stem.removeprefix("pretrain-"))
    assert given.longest == config["embed"].get("max_residues", held)
    fused = config["embed"].get("fused", False)
    expected = predict(encoder, DEVICES["H200"], given.longest, 286, fused=fused).cost
    at = np.array([50, 286, given.longest])
    assert given.picoseconds(at) == pytest.approx(expected.picoseconds(at), rel=0.02)
