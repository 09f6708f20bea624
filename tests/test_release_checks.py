"""Release checks: the recogniser's ROC by counting, thresholds at their edges, and nobody of the training split."""

import numpy as np
import pytest
import torch

from lib.errors import SplitError
from lib.people import procedural
from lib.studies import release_checks


def test_the_area_under_the_roc_by_counting():
    vectors = torch.nn.functional.normalize(torch.randn(12, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    pairs = [(float(vectors[i] @ vectors[j]), i // 3 == j // 3) for i in range(12) for j in range(i)]
    wins = [(a > b) + 0.5 * (a == b) for a, same in pairs if same for b, other in pairs if not other]
    assert release_checks.auc(vectors, 3) == pytest.approx(np.mean(wins))


def test_thresholds_at_their_edges():
    edge = {name: threshold for name, (_, threshold) in release_checks.THRESHOLDS.items()}
    met = release_checks.against_thresholds(edge).met
    assert [name for name, word in met.items() if word == "no"] == ["blind gain"]  # must be above zero
    below = release_checks.against_thresholds({name: threshold - 0.01 for name, threshold in edge.items()}).met
    assert [name for name, word in below.items() if word == "yes"] == ["blind distance ratio", "landmark error"]


@pytest.mark.parametrize("splits", [["train", "train"], ["test", "train"]])
def test_the_training_split_is_never_measured(splits):
    crowd = [procedural.people_of(split, 2)[n] for n, split in enumerate(splits)]
    with pytest.raises(SplitError):
        release_checks.measure(None, crowd)
