"""scripts/bench with real guests: that it measures, not what."""

import json
import subprocess
from pathlib import Path

from guests import DEADLINE

from scripts.benchmark import boot
from scripts.benchmark.rounds import run_rounds
from scripts.with_kvm.host_kvm import host_kvm

ROOT = Path(__file__).parents[2]


def test_bench_measures_every_access_in_every_variant_of_ours(tmp_path: Path) -> None:
    results = tmp_path / "bench.json"
    done = subprocess.run(
        [ROOT / "scripts/bench", "exits", "--rounds", "1", "--json", results],
        capture_output=True,
        text=True,
        timeout=2 * DEADLINE,
    )
    assert done.returncode == 0, done.stderr
    contents = json.loads(results.read_text())
    assert {"kind", "cpu", "kernel", "date", "python", "peers"} <= set(contents["host"])
    measured = {(row["measure"], row["variant"]) for row in contents["rows"]}
    assert measured >= {
        (measure, variant)
        for measure in ("thr-write", "lsr-read", "mix")
        for variant in ("c", "python")
    }
    for row in contents["rows"]:
        assert row["median"] > 0
        assert row["unit"] == "ns"
        assert {"c", "qemu"} < set(row["ratio"])
        assert row["ratio"]["c"] > 0


def test_bench_boots_in_a_process_of_its_own_and_in_one_that_runs() -> None:
    ours = [
        job
        for job in boot.jobs(host_kvm().kind)
        if job.group == boot.QUIET and job.variant in ("all", boot.RUNNING)
    ]
    measured = run_rounds(ours, 1, lambda _: None)
    assert measured.reasons == {}
    values = {key: samples[0].value for key, samples in measured.samples.items()}
    assert set(values) == {
        (boot.QUIET, "all"),
        (boot.QUIET, boot.RUNNING),
        ("boot-memory", "all"),
    }
    assert all(value > 1 for value in values.values())
