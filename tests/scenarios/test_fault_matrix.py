"""Every fault at every state of a rollback has the outcome that is written down for it."""

from benchmarks.fault_matrix import FAULTS, STATES, figures, run, table


def test_every_cell_is_defined_nothing_is_done_twice_and_nobody_is_left_in_the_dark() -> None:
    cells = run(tuple(FAULTS))
    count = len(FAULTS) * len(STATES)
    assert figures(cells) == {"cells": count, "defined": count, "double_rollbacks": 0, "silent": 0}, table(cells)
