"""One attack as a value, and the text that is sent into a sandbox to carry it out."""

import inspect
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from types import ModuleType

from tci.doctor.attacks import neighbours, toolkit
from tci.doctor.attacks.toolkit import Attempts, Target


@dataclass(frozen=True, slots=True)
class Attack:
    """Something that hostile code may try."""

    name: str
    tries: str
    """One sentence: what is tried."""
    source: str = field(repr=False)
    """The functions that it is made of, in Python for the sandbox."""
    before: str | None = None
    """Name of a function that runs first, where something is uploaded between."""
    uploads: tuple[str, ...] = ()
    """Files that the caller uploads, one by one, after the first part; each may be refused."""

    def code(self, target: Target) -> str:
        """Return what to run as a session's code; its last line says `held: ...` or `open: ...`."""
        return f"{self.source}\nrun_attack({self.name}, {json.dumps(asdict(target))!r})\n"

    def preparation(self, target: Target) -> str:
        """Return what to run before the uploads; empty where there are none."""
        if self.before is None:
            return ""
        return f"{self.source}\n{self.before}(Target(**json.loads({json.dumps(asdict(target))!r})))\n"


def attack_of(
    module: ModuleType,
    function: Callable[[Target, Attempts], None],
    *,
    uploads: tuple[str, ...] = (),
    before: Callable[[Target], None] | None = None,
) -> Attack:
    """Return the attack that a function of a module carries out; its docstring says what it tries."""
    return Attack(
        name=function.__name__,
        tries=inspect.cleandoc(function.__doc__ or "").splitlines()[0],
        source=_source_of(module),
        before=before.__name__ if before else None,
        uploads=uploads,
    )


def plant_code(target: Target) -> str:
    """Return the code that leaves the target's marker all over a sandbox, for the attacks of others to find."""
    return f"{_source_of(neighbours)}\nrun_attack(plant, {json.dumps(asdict(target))!r})\n"


def _source_of(module: ModuleType) -> str:
    """Return the toolkit and a module as one text; what the module imports of the toolkit is there already."""
    lines = inspect.getsource(module).splitlines(keepends=True)
    own = "".join(line for line in lines if not line.startswith("from tci."))
    return inspect.getsource(toolkit) + own
