"""Descriptors and pseudo-labels."""

import numpy as np
import pytest
import torch

from descriptors import are_tied, build_descriptors, cosines, pseudo_label_report, pseudo_labels
from readers.descriptor_files import read_descriptors, write_descriptors
from readers.facts import Facts
from utils import InputError

# Appearance along one axis a class; motion the same.
DESCRIPTORS = torch.eye(3).expand(2, 3, 3)


def test_build_by_hand():
    means = torch.tensor([[1.0, 2.0, 10.0, 20.0], [3.0, 4.0, 30.0, 40.0], [5.0, 6.0, 50.0, 60.0]])
    labels = torch.tensor([[1.0, 0, 0], [1, 1, 0], [0, 1, 0]])  # the second video has two labels; no video the third
    appearance, motion = build_descriptors(means, labels)
    assert appearance.tolist() == [[2, 3], [4, 5], [0, 0]]
    assert motion.tolist() == [[20, 30], [40, 50], [0, 0]]


def test_consistent_partial_and_neither():
    means = torch.tensor(
        [
            [0.0, 5.0, 0.0, 0.0, 2.0, 0.1],  # both say class 1, whatever the length of the vectors
            [1.0, 0.1, 0.0, 0.0, 0.9, 0.8],  # appearance says 0 firmly, motion 1 weakly: 0, which is one of them
            [0.8, 0.7, 0.0, 0.0, 0.7, 0.8],  # appearance says 0, motion 2, together they say 1
        ]
    )
    found = pseudo_labels(means, DESCRIPTORS)
    assert found.label.tolist() == [1, 0, 1]
    assert found.consistent.tolist() == [True, False, False]
    assert found.partial.tolist() == [False, True, False]
    chosen = found.select([2, 0])
    assert chosen.label.tolist() == [1, 1] and chosen.consistent.tolist() == [False, True]


def test_a_tie_is_no_pseudo_label():
    """Of a modality or of the mean, also where equal descriptors give products that differ in their last bits."""
    means = torch.rand(50, 64, generator=torch.Generator().manual_seed(0))
    different = torch.rand(2, 33, 32, generator=torch.Generator().manual_seed(1))
    twice = different.clone()
    twice[:, 32] = twice[:, 3]  # in another block of the matrix product
    after = pseudo_labels(means, twice)
    cosine = cosines(means, twice)
    best = (cosine[..., [3, 32]].amax(-1) >= cosine.amax(-1) - 1e-6).any(0)
    tied = are_tied(cosine)
    assert 0 < tied.sum() < 50 and (tied >= best).all() and not are_tied(cosines(means, different)).any()
    assert not (after.consistent | after.partial)[tied].any()

    crossed = torch.tensor([[[1.0, 0.0], [0.0, 1.0]], [[0.0, 1.0], [1.0, 0.0]]])  # one for each modality
    means = torch.tensor([[1.0, 0.0, 1.0, 0.0], [1.0, 0.0, 0.0, 1.0]])
    assert are_tied(cosines(means, crossed)).tolist() == [True, False]
    assert not are_tied(cosines(torch.zeros(2, 4), crossed[:, :1])).any()  # there is no other class
    report = pseudo_label_report(after, torch.eye(33)[after.label], [*map(str, range(33))], tied=tied)
    assert f"{50 - int(tied.sum())} are a true label" in report and f"  {int(tied.sum())} of them have none" in report
    assert "taken for" not in report


def test_zero_vectors():
    """A class without a video, or a video of black frames."""
    descriptors = torch.cat([DESCRIPTORS[:, :2], torch.zeros(2, 1, 3)], dim=1)
    found = pseudo_labels(torch.stack([torch.tensor([0.0, 1.0, 0.0] * 2), torch.zeros(6)]), descriptors)
    assert found.label[0] == 1 and found.consistent.tolist() == [True, False] and not found.partial.any()


def test_files(tmp_path):
    descriptors = torch.rand(2, 5, 4)
    write_descriptors(tmp_path, descriptors, Facts(tuple("abcde")))
    assert torch.equal(read_descriptors(tmp_path, 5, 8, list("abcde")), descriptors)
    assert torch.equal(read_descriptors(tmp_path, 5, 8), descriptors)
    with pytest.raises(
        InputError, match=r"appearance_descriptors.npy: expected numbers of shape \[6, 4\] for 6 classes"
    ):
        read_descriptors(tmp_path, 6, 8)
    np.save(tmp_path / "general_motion_descriptors.npy", np.full((5, 4), "x"))
    with pytest.raises(InputError, match=r"motion_descriptors.npy: expected numbers"):
        read_descriptors(tmp_path, 5, 8)
