"""Worlds by seed, through every fault, without real time: what must hold at every step, and once the faults have stopped."""

import logging
from collections.abc import Iterator

import pytest
from soak import scaled, seed

from benchmarks.simulate import MUTATIONS, Mutation, planted
from simulation import control, ingest, jobs
from simulation.chance import Chance, Violation, run, shortest
from simulation.disk import Disk, SimPath

WORLDS = {
    "ingest": (ingest.play, ingest.KINDS),
    "jobs": (jobs.play, jobs.KINDS),
    "control": (control.play, control.KINDS),
}
SEEDS = {"ingest": 200, "jobs": 200, "control": 60}


@pytest.fixture(autouse=True)
def _quiet() -> Iterator[None]:
    logging.getLogger("lastgood").setLevel(logging.CRITICAL)
    yield
    logging.getLogger("lastgood").setLevel(logging.NOTSET)


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.what)
def test_every_planted_fault_still_changes_the_code(mutation: Mutation) -> None:
    before = getattr(mutation.owner, mutation.name)
    with planted(mutation):
        assert getattr(mutation.owner, mutation.name) is not before
    assert getattr(mutation.owner, mutation.name) is before


@pytest.mark.scaled
@pytest.mark.parametrize("world", WORLDS)
def test_no_seed_breaks_a_promise(world: str) -> None:
    play, kinds = WORLDS[world]
    first = seed(0)
    outcomes = [run(play, number, kinds) for number in range(first, first + scaled(SEEDS[world]))]
    broken = [outcome for outcome in outcomes if outcome.violation]
    if broken:
        worst = shortest(play, broken[0].seed, kinds)
        pytest.fail(f"seed {worst.seed}: {worst.violation}\n" + "\n".join(worst.history))
    missed = kinds - {kind for outcome in outcomes for kind in outcome.injected}
    assert not missed, f"faults that never happened: {missed}"


@pytest.mark.parametrize("world", WORLDS)
def test_a_seed_plays_the_same_world_again(world: str) -> None:
    play, kinds = WORLDS[world]
    first, again = (run(play, 3, kinds) for _ in range(2))
    assert (first.history, first.steps, first.injected) == (again.history, again.steps, again.injected)


def test_the_disk_loses_what_was_not_synced_and_only_that() -> None:
    """The simulated disk is held to what it is to be: names and bytes apart, and a failed sync that is not made good by the next one."""
    lost = 0
    for number in range(50):
        disk = Disk(Chance(number, frozenset()))
        SimPath(disk, "/d").mkdir()
        disk.sync_names("/")
        for name in ("synced", "unsynced", "unnamed"):
            fd = disk.open(f"/d/{name}", 0o102)
            while len(disk.at(f"/d/{name}").cached) < 2_000:
                disk.write(fd, b"x" * 100)
            if name != "unsynced":
                disk.fdatasync(fd)
            if name == "unsynced":
                disk.sync_names("/d")
        disk.power_loss()
        assert SimPath(disk, "/d/synced").read_bytes() == b"x" * len(disk.at("/d/synced").cached)
        assert len(disk.at("/d/synced").cached) >= 2_000
        lost += disk.at("/d/unsynced").cached != disk.at("/d/synced").cached
        lost += not SimPath(disk, "/d/unnamed").exists()
    assert lost > 50, "what was not synced is often gone"


def test_a_violation_is_told_with_the_fewest_kinds_of_faults() -> None:
    def play(chance: Chance) -> None:
        for _ in range(50):
            chance.pick("harmless")
            chance.demand(not chance.pick("bad"), "it broke")

    broken = next(outcome for n in range(99) if (outcome := run(play, n, frozenset({"bad", "harmless"}))).violation)
    told = shortest(play, broken.seed, frozenset({"bad", "harmless"}))
    assert told.violation == "it broke"
    assert not any("harmless" in line for line in told.history)
    with pytest.raises(Violation):
        Chance(1, frozenset()).demand(False, "no")
