"""What benchmarks/features.py measures is what it says."""

import numpy as np
import pytest
import torch

pytest.importorskip("av")
pytest.importorskip("cv2")

from benchmarks import features
from prepare.i3d import Unit, random_i3d
from prepare.video_frames import VideoFile


def test_a_repeated_video_is_as_much_longer(tmp_path):
    features.make_video(tmp_path / "one.mp4", 0.4)
    features.repeat_video(tmp_path / "one.mp4", tmp_path / "five.mp4", 5)
    one, five = ([*VideoFile(tmp_path / name, 30.0).frames()] for name in ("one.mp4", "five.mp4"))
    assert (len(one), len(five)) == (12, 60)
    assert all(np.array_equal(frame, one[number % 12]) for number, frame in enumerate(five))


def test_the_floor_of_the_network_is_its_convolutions():
    network = random_i3d()["flow"]
    clips, units = torch.rand(1, 2, 16, 32, 32), [unit for unit in network.modules() if isinstance(unit, Unit)]
    outputs = []
    hooks = [unit.register_forward_hook(lambda unit, inputs, output: outputs.append(output)) for unit in units]
    network(clips)
    for hook in hooks:
        hook.remove()
    bare = [call().relu() for call in features.convolutions(network, clips)]
    assert len(bare) == len(outputs) == 57
    for one, other in zip(bare, outputs, strict=True):
        torch.testing.assert_close(one, other)


def test_a_stand_in_begins_as_what_it_stands_for():
    calls = []
    function = features.Begun(lambda x: calls.append(x) or np.full(3, x), 2)
    assert [function(x).tolist() for x in (4, 5, 6, 7)] == [[4] * 3, [5] * 3, [0] * 3, [0] * 3]
    assert calls == [4, 5]
