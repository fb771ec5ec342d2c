"""What a preset comes from, as BibTeX."""

from dataclasses import dataclass
from typing import Any

from sympformer.model import ModelConfig


@dataclass(frozen=True)
class Source:
    """A publication, and the `ModelConfig` fields whose values are its idea."""

    authors: str
    """Names as BibTeX wants them, joined by "and"."""
    title: str
    year: int
    where: str
    """An arXiv number, or a journal."""
    of: tuple[dict[str, Any], ...]
    """An architecture comes from it if all fields of one of these have these values."""

    def bibtex(self, key: str) -> str:
        """The entry under a key."""
        place = f"  journal = {{{self.where}}}"
        if self.where.replace(".", "").isdigit():
            place = f"  eprint = {{{self.where}}},\n  archivePrefix = {{arXiv}}"
        kind = "misc" if "eprint" in place else "article"
        return (
            f"@{kind}{{{key},\n  author = {{{self.authors}}},\n  title = {{{{{self.title}}}}},\n"
            f"  year = {{{self.year}}},\n{place}\n}}\n"
        )


def _scheme(name: str) -> dict[str, Any]:
    return {"dynamics": "symp", "form": "momentum", "scheme": name}


SOURCES = {
    "stein2026sympformer": Source(
        "Stein, Viktor and Li, Wuchen and Steidl, Gabriele",
        "SympFormer: Accelerated attention blocks via Inertial Dynamics on Density Manifolds",
        2026,
        "2603.16535",
        ({"dynamics": "symp"},),
    ),
    "zimin2026yuriiformer": Source(
        "Zimin, Aleksandr and Polyanskiy, Yury and Rigollet, Philippe",
        "YuriiFormer: A Suite of Nesterov-Accelerated Transformers",
        2026,
        "2601.23236",
        ({"dynamics": "yurii"}, {"dynamics": "polyak"}, {"dynamics": "tmm"}),
    ),
    "polyak1964methods": Source(
        "Polyak, Boris T.",
        "Some methods of speeding up the convergence of iteration methods",
        1964,
        "USSR Computational Mathematics and Mathematical Physics 4(5), 1-17",
        ({"dynamics": "polyak"},),
    ),
    "vanscoy2018triple": Source(
        "Van Scoy, Bryan and Freeman, Randy A. and Lynch, Kevin M.",
        "The Fastest Known Globally Convergent First-Order Method for Minimizing Strongly Convex "
        "Functions",
        2018,
        "IEEE Control Systems Letters 2(1), 49-54",
        ({"dynamics": "tmm"},),
    ),
    "mclachlan2001conformal": Source(
        "McLachlan, Robert and Perlmutter, Matthew",
        "Conformal Hamiltonian systems",
        2001,
        "Journal of Geometry and Physics 39(4), 276-300",
        (_scheme("conformal-euler"),),
    ),
    "cox2002etd": Source(
        "Cox, S. M. and Matthews, P. C.",
        "Exponential Time Differencing for Stiff Systems",
        2002,
        "Journal of Computational Physics 176(2), 430-455",
        (_scheme("exp-euler"), _scheme("etd-ab2")),
    ),
    "strang1968splitting": Source(
        "Strang, Gilbert",
        "On the Construction and Comparison of Difference Schemes",
        1968,
        "SIAM Journal on Numerical Analysis 5(3), 506-517",
        (_scheme("strang"),),
    ),
    "tao2016explicit": Source(
        "Tao, Molei",
        "Explicit symplectic approximation of nonseparable Hamiltonians: algorithm and long time "
        "performance",
        2016,
        "1609.02212",
        (_scheme("tao"),),
    ),
    "vaswani2017attention": Source(
        "Vaswani, Ashish and Shazeer, Noam and Parmar, Niki and Uszkoreit, Jakob and Jones, Llion "
        r"and Gomez, Aidan N. and Kaiser, {\L}ukasz and Polosukhin, Illia",
        "Attention Is All You Need",
        2017,
        "1706.03762",
        ({"attention": "softmax"}, {"attention": "tied-softmax"}),
    ),
    "radford2019language": Source(
        "Radford, Alec and Wu, Jeffrey and Child, Rewon and Luan, David and Amodei, Dario and "
        "Sutskever, Ilya",
        "Language Models are Unsupervised Multitask Learners",
        2019,
        "OpenAI",
        ({"attention": "softmax", "dynamics": "none"},),
    ),
    "katharopoulos2020transformers": Source(
        r"Katharopoulos, Angelos and Vyas, Apoorv and Pappas, Nikolaos and Fleuret, Fran{\c c}ois",
        "Transformers are RNNs: Fast Autoregressive Transformers with Linear Attention",
        2020,
        "2006.16236",
        ({"attention": "linear"}, {"attention": "tied-linear"}, {"rule": "sum"}),
    ),
    "dao2024mamba2": Source(
        "Dao, Tri and Gu, Albert",
        "Transformers are SSMs: Generalized Models and Efficient Algorithms Through Structured "
        "State Space Duality",
        2024,
        "2405.21060",
        ({"rule": "sum", "decay": "head"},),
    ),
    "schlag2021linear": Source(
        r"Schlag, Imanol and Irie, Kazuki and Schmidhuber, J{\"u}rgen",
        "Linear Transformers Are Secretly Fast Weight Programmers",
        2021,
        "2102.11174",
        ({"rule": "delta"}, {"rule": "momentum"}),
    ),
    "yang2024parallelizing": Source(
        "Yang, Songlin and Wang, Bailin and Zhang, Yu and Shen, Yikang and Kim, Yoon",
        "Parallelizing Linear Transformers with the Delta Rule over Sequence Length",
        2024,
        "2406.06484",
        ({"rule": "delta"}, {"rule": "momentum"}),
    ),
    "yang2024gated": Source(
        "Yang, Songlin and Kautz, Jan and Hatamizadeh, Ali",
        "Gated Delta Networks: Improving Mamba2 with Delta Rule",
        2024,
        "2412.06464",
        ({"rule": "delta", "decay": "head"},),
    ),
    "kimi2025linear": Source(
        "{Kimi Team}",
        "Kimi Linear: An Expressive, Efficient Attention Architecture",
        2025,
        "2510.26692",
        ({"rule": "delta", "decay": "channel"},),
    ),
    "behrouz2025titans": Source(
        "Behrouz, Ali and Zhong, Peilin and Mirrokni, Vahab",
        "Titans: Learning to Memorize at Test Time",
        2025,
        "2501.00663",
        ({"rule": "momentum"},),
    ),
    "liu2024longhorn": Source(
        "Liu, Bo and Wang, Rui and Wu, Lemeng and Feng, Yihao and Stone, Peter and Liu, Qiang",
        "Longhorn: State Space Models are Amortized Online Learners",
        2024,
        "2407.14207",
        ({"rule": "implicit"},),
    ),
    "vonoswald2025mesanet": Source(
        "von Oswald, Johannes and Scherrer, Nino and Kobayashi, Seijin and Versari, Luca and Yang, "
        "Songlin and others",
        "MesaNet: Sequence Modeling by Locally Optimal Test-Time Training",
        2025,
        "2506.05233",
        ({"rule": "mesa"},),
    ),
    "he2022regularized": Source(
        "He, Ye and Balasubramanian, Krishnakumar and Sriperumbudur, Bharath K. and Lu, Jianfeng",
        "Regularized Stein Variational Gradient Flow",
        2022,
        "2211.07861",
        ({"attention": "fast-weights", "dynamics": "symp"},),
    ),
}
"""All publications, the more special beside the more general."""


def citation(name: str) -> str:
    """What to cite for a preset.

    Args:
        name: one of `sympformer.presets()`, or a preset that was registered.

    Returns:
        BibTeX entries, one for each publication that the preset takes an idea from; empty of an
        attention that was registered and moves as no published model does.

    Raises:
        InputError: there is no such preset.
    """
    config = ModelConfig.preset(name, n_head=1)

    def has(fields: dict[str, Any]) -> bool:
        return all(getattr(config, field, None) == value for field, value in fields.items())

    found = (k for k, source in SOURCES.items() if any(map(has, source.of)))
    return "\n".join(SOURCES[key].bibtex(key) for key in found)
