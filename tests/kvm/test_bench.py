"""scripts/bench with real guests: that it measures, not what."""

import json
from pathlib import Path

import pytest

from scripts.benchmark import boot, clone, exits, virtio
from scripts.benchmark.__main__ import main
from scripts.benchmark.rounds import run_rounds
from scripts.with_kvm.host_kvm import host_kvm


def test_bench_measures_every_access_in_c_and_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exits, "VARIANTS", ("c", "python"))  # a second each
    results = tmp_path / "bench.json"
    assert main(["exits", "--rounds", "1", "--json", str(results)]) == 0
    contents = json.loads(results.read_text())
    assert {"kind", "cpu", "kernel", "date", "python", "peers"} <= set(contents["host"])
    measured = {(row["measure"], row["variant"]) for row in contents["rows"]}
    assert measured == {
        (measure, variant)
        for measure in ("thr-write", "lsr-read", "mix")
        for variant in ("c", "python")
    }
    for row in contents["rows"]:
        assert row["median"] > 0
        assert row["unit"] == "ns"
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
    # Without memory if the guest had reset before we looked.
    assert set(values) - {("boot-memory", "all")} == {
        (boot.QUIET, "all"),
        (boot.QUIET, boot.RUNNING),
    }
    assert all(value > 1 for value in values.values())


def test_bench_clones_in_this_process_and_restores_in_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clone, "SIZES", (128,))
    monkeypatch.setattr(clone, "MANY", 3)
    ours = [job for job in clone.jobs(host_kvm().kind) if job.variant != "firecracker"]
    measured = run_rounds(ours, 1, lambda _: None)
    assert measured.reasons == {}
    names = {measure for measure, _ in measured.samples}
    assert names == clone.MEASURES.keys() - {"restore-512"}
    values = [samples[0].value for samples in measured.samples.values()]
    assert all(value > 0 for value in values)


def test_bench_asks_virtio_devices_and_writes_to_consoles(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(virtio, "READS", 200)
    monkeypatch.setattr(virtio, "STREAM_SIZES", {"hvc0": 1 << 17})
    variants = {"pci", "mmio", "c", "vmm", "hvc0"}
    all_jobs = virtio.jobs(host_kvm().kind)
    ours = [job for job in all_jobs if job.variant in variants]
    measured = run_rounds(ours, 1, lambda _: None)
    assert measured.reasons == {}
    assert measured.samples.keys() == {(job.group, job.variant) for job in ours}
    assert all(samples[0].value > 0 for samples in measured.samples.values())
