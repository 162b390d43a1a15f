"""Arrays that would wait for ever are refused before anything is queued."""

import pytest
from embedome.common.errors import UserError
from embedome.workflow.slurm_arrays import check_arrays


@pytest.mark.parametrize("arrays", [{"embed"}, {"all"}])
def test_an_array_of_more_jobs_than_the_queue_takes_is_refused(arrays):
    with pytest.raises(
        UserError, match=r"embed has 5 jobs, which are submitted 5 at once, but .* let 4 into the queue"
    ):
        check_arrays({"filter": 1, "embed": 5}, arrays, 1000, 4)


@pytest.mark.parametrize(
    ("arrays", "size", "at_once"),
    # As many as are needed; an array of fewer; a rule that is no array.
    [({"embed"}, 1000, 5), ({"embed"}, 4, 4), ({"annotate"}, 1000, 1), ((), 1000, 1)],
)
def test_what_is_submitted_in_the_end_is_no_fault(arrays, size, at_once):
    check_arrays({"filter": 1, "embed": 5}, arrays, size, at_once)
