"""Optical flow between successive frames, by TV-L1 (Zach, Pock and Bischof, 2007), as images of 8 bits.

OpenCV's implementation with its own settings is what extractors use. It takes most of the time that features take.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import numpy as np

from prepare.video_packages import require_video_packages

BOUND = 20.0  # pixels a frame; faster motion is clipped


def flow_of(frames: Iterable[np.ndarray], workers: int = 1) -> Iterator[np.ndarray]:
    """The optical flow from each frame to the next.

    It does not depend on the number of workers. At most two flows a worker are under way or waiting to be taken, so a
    slow consumer holds up the frames.

    Args:
        frames: F of them, uint8 RGB `[H, W, 3]`.
        workers: threads.

    Returns:
        F - 1 images, uint8 `[H, W, 2]`: x and y, of -20 to 20 pixels mapped to 0 to 255.

    Raises:
        InputError: OpenCV is not installed.
    """
    require_video_packages()
    import cv2

    optflow: Any = cv2.optflow
    grey = (cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames)
    own = threading.local()  # the solver keeps its buffers, so each thread has one

    def begin() -> None:
        own.solver = optflow.DualTVL1OpticalFlow_create()

    def flow(pair: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        return as_image(own.solver.calc(*pair, None))

    under_way: deque[Future[np.ndarray]] = deque()
    threads_before = cv2.getNumThreads()
    cv2.setNumThreads(1)  # threads of its own within each of ours would only wait for each other
    # joblib hands out results in order as well, but takes frames as fast as it can, however slow the consumer is.
    pool = ThreadPoolExecutor(workers, initializer=begin)
    try:
        for pair in pairwise(grey):
            under_way.append(pool.submit(flow, pair))
            if len(under_way) == 2 * workers:
                yield under_way.popleft().result()
        while under_way:
            yield under_way.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
        cv2.setNumThreads(threads_before)


def as_image(flow: np.ndarray) -> np.ndarray:
    """Map flow in pixels, of -20 to 20 or clipped to it, to 0 to 255, rounded: uint8 of the same shape."""
    return np.rint((np.clip(flow, -BOUND, BOUND) + BOUND) * (255 / (2 * BOUND))).astype(np.uint8)
