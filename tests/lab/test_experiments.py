"""Every claim of every experiment, at a smaller size than the default; and what a run leaves."""

import inspect
import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch

from sympformer.dynamics import DivergenceError
from sympformer.dynamics.state import State
from sympformer.errors import InputError
from sympformer.lab import EXPERIMENTS, perform
from sympformer.lab.film import LONGEST, Sphere
from sympformer.lab.record import Claim, Result, contour

SMALL: dict[str, dict] = {
    "ellipse": {"particles": 100, "steps": 20, "seed": 2},
    "orders": {"particles": 4, "dimension": 2, "steps": (32, 64, 128)},
    "conservation": {"particles": 4, "steps": 300},
    "energy": {"particles": 16, "steps": 800, "conditions": (100.0, 1000.0)},
    "relaxation": {"conditions": (10.0, 100.0, 1000.0), "dimension": 3},
    "clusters": {
        "particles": 16,
        "starts": 2,
        "betas": (2.0,),
        "dimensions": (3,),
        "steps": 200,
        "pair_betas": (2.0, 3.0, 4.0),
    },
    "decoder": {"particles": 128, "steps": 10},
    "meanfield": {"particles": (32, 128), "grid": 64, "duration": 0.2, "steps": 20},
}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """As `perform` does: two threads on so little work mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def results():
    """Each experiment is run once."""
    return {name: e.run(e.config(**SMALL[name])) for name, e in EXPERIMENTS.items()}


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_claim_holds(results, name):
    claims = results[name].claims
    assert claims
    assert not [str(claim) for claim in claims if not claim.holds]


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_option_is_documented(name):
    config = EXPERIMENTS[name].config
    source = inspect.getsource(config)
    assert EXPERIMENTS[name].help
    for field in fields(config):
        after = source.split(f"    {field.name}: ", 1)[1].split("\n", 1)[1]
        assert after.lstrip().startswith('"""'), field.name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_a_run_leaves_data_claims_and_figures(results, name, tmp_path, monkeypatch):
    ready = results[name]
    monkeypatch.setitem(EXPERIMENTS, name, EXPERIMENTS[name]._replace(run=lambda config: ready))
    config = EXPERIMENTS[name].config(**SMALL[name])
    assert perform(name, config, tmp_path) is ready
    report = json.loads((tmp_path / f"{name}.json").read_text(encoding="utf-8"))
    assert report["experiment"] == name
    assert len(report["claims"]) == len(ready.claims)
    assert all(claim["holds"] for claim in report["claims"])
    with np.load(tmp_path / f"{name}.npz") as data:
        assert set(data) == set(ready.arrays)
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
    assert len(list(tmp_path.iterdir())) == 4


@pytest.mark.parametrize("d", [2, 3])
def test_an_animation_has_all_frames(d, tmp_path, monkeypatch):
    from PIL import Image

    cloud, moving = np.random.default_rng(0).standard_normal((2, 5, 20, d))
    frames, momenta = {"resting": cloud, "moving": cloud}, {"moving": moving}
    result = Result({}, [], {}, frames, momenta, frame_times=np.arange(5.0))
    patched = EXPERIMENTS["ellipse"]._replace(run=lambda config: result, draw=lambda r: _figure())
    monkeypatch.setitem(EXPERIMENTS, "ellipse", patched)
    perform("ellipse", patched.config(), tmp_path, animation=True)
    with Image.open(tmp_path / "ellipse.gif") as movie:
        assert movie.n_frames == 5


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_animated_experiments_have_frames(results, name, tmp_path):
    ready, experiment = results[name], EXPERIMENTS[name]
    assert bool(ready.frames) == experiment.animated
    for cloud in ready.frames.values():
        assert cloud.shape[::2] in [(len(ready.frame_times), n) for n in (2, 3)]
    for title, momenta in ready.momenta.items():
        assert momenta.shape == ready.frames[title].shape
    if not experiment.animated:
        with pytest.raises(InputError, match="no animation; ellipse"):
            perform(name, experiment.config(), tmp_path, animation=True)
        assert not list(tmp_path.iterdir())


def test_arrows_start_at_the_tokens_and_are_their_momenta():
    x, p = np.random.default_rng(0).standard_normal((2, 3, 4, 3))
    panel = Sphere(_figure().subplots(), x, p)
    panel.show(1)
    assert panel.arrows is not None
    np.testing.assert_array_equal(panel.arrows.get_offsets(), x[1, :, :2])
    drawn = np.stack([panel.arrows.U, panel.arrows.V], -1)
    np.testing.assert_allclose(drawn * np.linalg.norm(p, axis=-1).max(), LONGEST * p[1, :, :2])
    near, far = x[1, :, 2].argmax(), x[1, :, 2].argmin()
    assert np.mean(panel.dots.get_facecolor()[near]) < np.mean(panel.dots.get_facecolor()[far])


def test_the_film_of_clusters_is_on_the_sphere(results):
    ready = results["clusters"]
    gradient, accelerated = ready.frames
    assert list(ready.momenta) == [accelerated]
    np.testing.assert_allclose(ready.frames[gradient][0], ready.frames[accelerated][0])
    for cloud in ready.frames.values():
        np.testing.assert_allclose(np.linalg.norm(cloud, axis=-1), 1)
    momenta = ready.momenta[accelerated]
    np.testing.assert_allclose((momenta * ready.frames[accelerated]).sum(-1), 0, atol=1e-12)


def _figure():
    from matplotlib.figure import Figure

    return Figure()


def test_divergence_keeps_what_was_computed(tmp_path, monkeypatch):
    def run(config):
        raise DivergenceError(3, 1.3, State(torch.ones(3, 2), torch.zeros(3, 2)))

    monkeypatch.setitem(EXPERIMENTS, "ellipse", EXPERIMENTS["ellipse"]._replace(run=run))
    with pytest.raises(InputError, match=r"step 3 \(t = 1.3\).*ellipse-diverged.npz"):
        perform("ellipse", EXPERIMENTS["ellipse"].config(), tmp_path)
    with np.load(tmp_path / "ellipse-diverged.npz") as kept:
        assert kept["x"].shape == (3, 2)


def test_unknown_experiment(tmp_path):
    with pytest.raises(InputError, match="did you mean 'ellipse'"):
        perform("elipse", None, tmp_path)


@pytest.mark.parametrize(
    ("option", "rows", "message"),
    [
        ("A", [[1.0, 1.0], [0.0, 1.0]], "A must be symmetric"),
        ("V", [[1.0, 0.0]], r"V in .* is \(1, 2\), but must be \(2, 2\)"),
        ("covariance", [[1.0, 1.0], [1.0, 1.0]], "covariance must be positive definite"),
    ],
)
def test_bad_matrices(option, rows, message, tmp_path):
    np.savetxt(tmp_path / "matrix.txt", rows)
    config = replace(
        EXPERIMENTS["ellipse"].config(dimension=2, particles=20),
        **{option: tmp_path / "matrix.txt"},
    )
    with pytest.raises(InputError, match=message):
        perform("ellipse", config, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_matrix_files_are_read(tmp_path):
    np.save(tmp_path / "A.npy", np.eye(2))
    run = EXPERIMENTS["ellipse"].run
    config = EXPERIMENTS["ellipse"].config(
        dimension=2, particles=20, laws=("gaussian",), steps=10, A=tmp_path / "A.npy"
    )
    with_file, without = run(config), run(replace(config, A=None))
    key = "linear, gaussian, centred: cloud"
    assert not np.allclose(with_file.arrays[key][1], without.arrays[key][1])
    with pytest.raises(InputError, match="cannot read the matrix A"):
        run(replace(config, A=tmp_path / "none.txt"))


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ellipse", {"particles": 5}, "dimension 3 needs 8 or more"),
        ("ellipse", {"dimension": 1}, "dimension 2 or more"),
        ("ellipse", {"laws": ("cauchy",)}, "unknown law 'cauchy'"),
        ("ellipse", {"scheme": "ab3"}, "did you mean 'ab2'"),
        ("ellipse", {"duration": 0.0}, "h > 0"),
        ("orders", {"steps": (32,)}, "two or more different values"),
        ("orders", {"particles": 0}, "particles must be a number ≥ 1, not 0"),
        ("orders", {"c_log": -1.0}, "c_log must be a number ≥ 0, not -1"),
        ("conservation", {"h": float("nan")}, "h must be a finite number, not nan"),
        ("energy", {"conditions": (10.0,)}, "two or more condition numbers"),
        ("relaxation", {"conditions": (10.0, 100.0)}, "two with κρ ≥ 10"),
        ("relaxation", {"rhos": (0.1, 0.0)}, "regularisers ρ > 0"),
        ("relaxation", {"tolerance": 0.3}, "tolerance must be below 1 / dimension"),
        ("clusters", {"dimensions": (1, 2)}, "dimensions ≥ 2"),
        ("decoder", {"particles": 8}, "32 or more tokens"),
        ("orders", {"steps": ()}, "steps needs at least one value"),
        ("meanfield", {"particles": (10**40,)}, "particles must be a list, each a whole number"),
        ("clusters", {"betas": ()}, "betas needs at least one value"),
    ],
)
def test_bad_numbers_are_refused_in_one_line(name, options, message, tmp_path):
    with pytest.raises(InputError, match=message) as caught:
        perform(name, EXPERIMENTS[name].config(**options), tmp_path)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_claim_says_what_was_wanted():
    assert str(Claim("Prop. 1", "error", 2e-3, high=1e-2)) == "holds  Prop. 1: error: 0.002 ≤ 0.01"
    assert str(Claim("Prop. 1", "slope", 3.0, 1.8, 2.2)) == "FAILS  Prop. 1: slope: 3 in [1.8, 2.2]"
    assert not Claim("Prop. 1", "error", float("nan"), high=1.0).holds


def test_the_ellipse_is_that_of_the_cloud():
    rng, spread = np.random.default_rng(0), np.array([[2.0, 0.3], [0.0, 0.5]])
    cloud = rng.standard_normal((4000, 2)) @ spread + [1.0, -2.0]
    x, y = np.stack(contour(cloud)) - cloud.mean(0)[:, None]
    inverse = np.linalg.inv(np.cov(cloud.T))
    radii = np.einsum("ik,ij,jk->k", np.stack([x, y]), inverse, np.stack([x, y]))
    np.testing.assert_allclose(radii, 4.0)
