"""The table of time discretisations: adding one is one file and one line here."""

from inspect import isabstract

from sympformer.dynamics.ab2 import AB2
from sympformer.dynamics.conformal_euler import ConformalEuler
from sympformer.dynamics.etd_ab2 import ETDAB2
from sympformer.dynamics.euler import Euler
from sympformer.dynamics.exp_euler import ExpEuler
from sympformer.dynamics.plain_euler import PlainEuler
from sympformer.dynamics.state import Scheme
from sympformer.dynamics.strang import Strang
from sympformer.dynamics.tao import Tao
from sympformer.errors import InputError, enter, shown

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
        InputError: the name is taken, or it is no scheme that can make a step.
    """
    if not (isinstance(scheme, type) and issubclass(scheme, Scheme)) or isabstract(scheme):
        raise InputError(
            f"scheme {name!r} must be a class below Scheme that has a step, not {shown(scheme)}"
        )
    enter(SCHEMES, name, scheme, "scheme")
