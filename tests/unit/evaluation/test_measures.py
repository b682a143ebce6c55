import json
import math

import numpy as np
import pytest
import scipy.linalg
import torch
from torchmetrics.image.kid import KernelInceptionDistance

from vlv.evaluation import measures, registry
from vlv.evaluation.interface import CaptionMeasure, FeatureMeasure, PairMeasure
from vlv.evaluation.measures.frechet import frechet_distance
from vlv.evaluation.measures.kernel_paired import paired_kernel_distance
from vlv.evaluation.measures.psnr import psnr
from vlv.evaluation.measures.ssim import ssim
from vlv.evaluation.measures.word_f1 import word_f1


def frechet_by_scipy(a, b):
    (a, b) = (x.double().numpy() for x in (a, b))
    root = scipy.linalg.sqrtm(np.cov(a.T) @ np.cov(b.T)).real
    return ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(np.cov(a.T) + np.cov(b.T) - 2 * root)


def kernel(a, b):
    return float((a.double() @ b.double() / len(a) + 1) ** 3)


def paired_by_hand(x, y):
    """The definition, term by term."""
    n = len(x)
    terms = [
        kernel(x[i], x[j]) + kernel(y[i], y[j]) - kernel(x[i], y[j]) - kernel(x[j], y[i])
        for i in range(n)
        for j in range(n)
        if i != j
    ]
    return sum(terms) / (n * (n - 1))


def usual_kid(x, y):
    """Torchmetrics' KID over given features, all of them in one subset."""
    network = torch.nn.Identity()
    network.num_features = x.shape[1]
    metric = KernelInceptionDistance(feature=network, subsets=1, subset_size=len(x))
    metric.update(x.double(), real=True)
    metric.update(y.double(), real=False)
    return float(metric.compute()[0])


def features(n, width=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(n, width, generator=generator), torch.randn(n, width, generator=generator) * 1.5 + 0.3


def test_distances_agree_with_a_second_route():
    a, b = features(60)
    assert frechet_distance(a, b).value == pytest.approx(frechet_by_scipy(a, b), rel=1e-6)
    assert paired_kernel_distance(a, b).value == pytest.approx(paired_by_hand(a, b), rel=1e-9)
    assert paired_kernel_distance(a, b).subset_std is None


def test_a_set_against_itself_is_at_no_distance():
    """The usual estimate of KID is far below 0 there: it takes each image's kernel with itself for a cross term."""
    a, _ = features(8)
    assert frechet_distance(a, a).value == pytest.approx(0, abs=1e-6)
    assert paired_kernel_distance(a, a).value == pytest.approx(0, abs=1e-6)
    assert usual_kid(a, a) < -0.1


def test_independent_sets_agree_with_the_usual_kid():
    """They differ in the n cross terms i = j alone, by -2/n of what those are above the others; 0 on average."""
    differences = []
    for seed in range(200):
        a, b = features(30, seed=seed)
        ours, usual = paired_kernel_distance(a, b).value, usual_kid(a, b)
        cross = (a.double() @ b.double().T / a.shape[1] + 1) ** 3
        others = (cross.sum() - cross.diagonal().sum()) / (30 * 29)
        assert usual - ours == pytest.approx(float(-2 / 30 * (cross.diagonal().mean() - others)), abs=1e-9)
        differences.append(ours - usual)
    standard_error = np.std(differences) / math.sqrt(len(differences))
    assert abs(np.mean(differences)) < 4 * standard_error


def test_pairs_of_one_distribution_are_at_no_distance_on_average():
    """y = -x has the distribution of x and depends on it wholly: the paired estimate is unbiased, the usual is not."""
    ours, usual = [], []
    for seed in range(300):
        x = features(10, width=3, seed=seed)[0]
        ours.append(paired_kernel_distance(x, -x).value)
        usual.append(usual_kid(x, -x))
    assert abs(np.mean(ours)) < 4 * np.std(ours) / math.sqrt(len(ours))
    assert abs(np.mean(usual)) > 5 * np.std(usual) / math.sqrt(len(usual))


def test_kernel_subsets_above_a_thousand_repeat_and_leave_the_random_state():
    a, b = features(1100, 3)
    torch.manual_seed(1)
    first = paired_kernel_distance(a, b)
    after = torch.rand(1)
    assert first == paired_kernel_distance(a, b)
    assert first.subset_std > 0
    assert paired_kernel_distance(a, a).value == pytest.approx(0, abs=1e-6)
    torch.manual_seed(1)
    assert torch.rand(1) == after


def test_sets_of_different_sizes_are_no_pairs():
    a, b = features(5)
    with pytest.raises(ValueError, match="are no pairs"):
        paired_kernel_distance(a, b[:4])


def test_psnr_and_ssim():
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (3, 32, 32), generator=generator, dtype=torch.uint8)
    darker = picture // 2
    mse = ((picture.double() - darker.double()) ** 2).mean()
    assert psnr(picture, darker) == pytest.approx(10 * math.log10(255**2 / float(mse)), rel=1e-6)
    assert math.isfinite(psnr(picture, picture))
    one_level = picture.clone()
    one_level[0, 0, 0] = 255 if picture[0, 0, 0] == 254 else picture[0, 0, 0] + 1
    assert psnr(picture, picture) == pytest.approx(psnr(picture, one_level))
    assert ssim(picture, picture) == pytest.approx(1)
    from skimage.metrics import structural_similarity

    by_skimage = structural_similarity(
        *(p.permute(1, 2, 0).numpy() for p in (picture, darker)), data_range=255, channel_axis=2,
        gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
    )  # fmt: skip
    assert ssim(picture, darker) == pytest.approx(by_skimage, abs=1e-3)


def test_shared_words():
    assert word_f1(["A red square."], ["a red square"]) == 1
    assert word_f1(["red"], ["blue"]) == 0
    assert word_f1(["red red"], ["red"]) == pytest.approx(2 / 3)
    assert word_f1(["a", "b"], ["a", "c"]) == 0.5
    assert word_f1([""], [""]) == 1


def test_every_measure_is_described():
    kinds = {FeatureMeasure: 2, PairMeasure: 2, CaptionMeasure: 1}
    found = [*registry.feature_measures(), *registry.pair_measures(), *registry.caption_measures()]
    assert [type(measure) for measure in found] == [kind for kind, count in kinds.items() for _ in range(count)]
    for measure in found:
        assert measure.better in ("lower", "higher")
        assert len(measure.meaning) > 20
        assert "\n" not in measure.meaning
        assert json.dumps(measure.legend())
    names = {measure.key("inception") for measure in registry.feature_measures()}
    assert names == {"fid", "kid_paired"}  # not `kid`: the formula is another


def test_a_new_measure_is_one_file(tmp_path, monkeypatch):
    """Only the file: it is found, and computed and shown with the others (`test_pictures.py`)."""
    (tmp_path / "contrast_of_test.py").write_text(
        "from vlv.evaluation.interface import PairMeasure\n"
        "MEASURE = PairMeasure('contrast_of_test', 'Contrast that the reconstruction adds', 'lower',\n"
        "                      compute=lambda a, b: float(b.float().std() - a.float().std()))\n"
    )
    monkeypatch.setattr(measures, "__path__", [*measures.__path__, str(tmp_path)])
    assert "contrast_of_test" in [measure.name for measure in registry.pair_measures()]
