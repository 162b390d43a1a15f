"""A run that was sharded again, cleaned: there is nothing left to do, and all results are as they were."""

import pytest
from embedome.workflow.clean import find_unneeded
from helpers.workflow_runs import SMALL, changed, digests, run


@pytest.mark.slow
def test_after_cleaning_nothing_is_to_be_done_and_results_are_the_same(demo):
    fewer = changed(SMALL, shard={"train": 1})
    assert run(demo, fewer).returncode == 0
    before = digests(demo)
    found = find_unneeded(demo)
    gone = {path for path in before if "/train/00001" in path and "/dataset/" not in path}
    assert {each.path.relative_to(demo).as_posix() for each in found} == gone
    assert len(gone) > 3
    assert all(each.remove() for each in found)
    assert digests(demo) == {path: digest for path, digest in before.items() if path not in gone}
    again = run(demo, fewer)
    assert again.returncode == 0
    assert "Nothing to be done" in again.stdout
