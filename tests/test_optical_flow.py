"""Optical flow: what it sees, its scale, and that threads change nothing."""

import threading
from itertools import pairwise

import numpy as np
import pytest

from prepare.optical_flow import as_image, flow_of

cv2 = pytest.importorskip("cv2")
if not hasattr(cv2, "optflow"):
    pytest.skip("OpenCV without its contrib modules", allow_module_level=True)


def moving(count, x=3, y=0):
    """Frames of a smooth pattern that moves by x and y pixels a frame, uint8 RGB [64, 80, 3]."""
    rows, columns = np.mgrid[:64, :80]
    for t in range(count):
        wave = np.sin((columns - x * t) / 7) + np.cos((rows - y * t) / 5) + np.sin((columns + rows - (x + y) * t) / 11)
        yield np.repeat(((wave + 3) * 40)[..., None], 3, 2).astype(np.uint8)


def pixels(image):
    return image / 255 * 40 - 20


def test_pixels_are_mapped_linearly_and_clipped():
    flow = np.array([-50, -20, -10, 0, 0.08, 10, 20, 50], np.float32)
    assert as_image(flow).tolist() == [0, 0, 64, 128, 128, 191, 255, 255]
    assert np.abs(pixels(as_image(flow[1:-1])) - flow[1:-1]).max() <= 20 / 255 + 1e-6


@pytest.mark.parametrize("x, y", [(3, 0), (0, -2), (-4, 1)])
def test_motion_is_seen(x, y):
    [flow] = flow_of(moving(2, x, y))
    assert flow.shape == (64, 80, 2) and flow.dtype == np.uint8
    inner = pixels(flow)[16:-16, 16:-16]
    assert np.median(inner, axis=(0, 1)) == pytest.approx([x, y], abs=0.4)


def test_flow_does_not_depend_on_the_number_of_threads():
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in moving(9)]
    wanted = [as_image(cv2.optflow.DualTVL1OpticalFlow_create().calc(*pair, None)) for pair in pairwise(grey)]
    for workers in (1, 2, 5):
        assert np.array_equal([*flow_of(moving(9), workers)], wanted)


def test_no_more_frames_are_taken_than_flows_can_be_under_way():
    taken = []
    frames = (taken.append(1) or frame for frame in moving(30))
    flows = flow_of(frames, workers=2)
    for count in range(1, 5):
        next(flows)
        assert len(taken) <= count + 4
    flows.close()


def test_a_stopped_consumer_leaves_no_threads_and_no_setting():
    before, setting = threading.active_count(), cv2.getNumThreads()
    cv2.setNumThreads(3)
    try:
        flows = flow_of(moving(30), workers=3)
        next(flows)
        flows.close()
        assert (threading.active_count(), cv2.getNumThreads()) == (before, 3)
    finally:
        cv2.setNumThreads(setting)


def test_errors_of_the_frames_arrive():
    def broken():
        yield from moving(3)
        raise ValueError("no more")

    with pytest.raises(ValueError, match="no more"):
        [*flow_of(broken(), workers=2)]


@pytest.mark.parametrize("count", [0, 1])
def test_too_few_frames_have_no_flow(count):
    assert [*flow_of(moving(count))] == []
