"""The table of time discretisations: adding one is one file and one line here."""

from sympformer.dynamics.ab2 import AB2
from sympformer.dynamics.conformal_euler import ConformalEuler
from sympformer.dynamics.etd_ab2 import ETDAB2
from sympformer.dynamics.euler import Euler
from sympformer.dynamics.exp_euler import ExpEuler
from sympformer.dynamics.plain_euler import PlainEuler
from sympformer.dynamics.state import Scheme
from sympformer.dynamics.strang import Strang
from sympformer.dynamics.tao import Tao
from sympformer.errors import enter

SCHEMES: dict[str, type[Scheme]] = {
    "plain-euler": PlainEuler,
    "euler": Euler,
    "conformal-euler": ConformalEuler,
    "exp-euler": ExpEuler,
    "ab2": AB2,
    "etd-ab2": ETDAB2,
    "strang": Strang,
    "tao": Tao,
}


def register_scheme(name: str, scheme: type[Scheme]) -> None:
    """Add a discretisation of your own: `ModelConfig(scheme=name)` and `integrate` know it then.

    Raises:
        InputError: the name is taken.
    """
    enter(SCHEMES, name, scheme, "scheme")
