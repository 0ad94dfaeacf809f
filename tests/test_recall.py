"""Recall of proposals, by hand."""

import numpy as np
import pandas as pd
import pytest

from eval.recall import average_recall, recall_table

TRUTH = pd.DataFrame(
    [("a", 0.0, 10.0), ("a", 20.0, 30.0), ("b", 0.0, 4.0), ("c", 5.0, 6.0)],
    columns=["video", "start_sec", "end_sec"],
)
PROPOSALS = {
    "a": np.array([[0.0, 5.0], [21.0, 30.0], [0.0, 10.0]]),  # tIoU 0.5 of the first; 0.9 of the second; 1 of the first
    "b": np.array([[0.0, 8.0]]),  # 0.5
    "d": np.empty((0, 2)),  # nothing proposed, nothing to find
}


def test_recall_by_hand():
    table = average_recall(PROPOSALS, TRUTH, tiou_thresholds=(0.3, 0.5, 0.7), counts=(1, 2, None))
    assert table.index.tolist() == [1, 2, "all"]
    assert table[[0.3, 0.5, 0.7]].to_numpy().tolist() == [[0.5, 0.5, 0], [0.75, 0.75, 0.25], [0.75, 0.75, 0.5]]
    assert table["mean"].tolist() == pytest.approx([1 / 3, 1.75 / 3, 2 / 3])
    assert table["proposals"].tolist() == pytest.approx([2 / 3, 1, 4 / 3])


def test_the_order_of_instances_does_not_matter_and_their_number_does():
    shuffled = average_recall(PROPOSALS, TRUTH.sample(frac=1, random_state=1))
    assert shuffled.equals(average_recall(PROPOSALS, TRUTH))
    doubled = average_recall(PROPOSALS, pd.concat([TRUTH, TRUTH[:1]]))  # the instance counts twice, and is reached
    assert doubled.loc["all", 0.7] == pytest.approx(3 / 5)


def test_table():
    lines = recall_table(average_recall(PROPOSALS, TRUTH)).splitlines()
    assert lines[0].split() == ["recall", "@", "tIoU", "0.3", "0.5", "0.7", "mean", "proposals"]
    assert lines[-1].split() == ["all", "75.0", "75.0", "50.0", "66.7", "1.3"]
