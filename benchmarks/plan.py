"""How much is measured: all of it in ten minutes, or a glance in one."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Plan:
    """Sizes of a run."""

    total_seconds: float
    """What has not been measured by then is not. A quiet machine needs half of it."""
    part_seconds: float
    """The most of one part: the others are to have their time."""
    warm_rounds: int
    warm_block: int
    opening_rounds: int
    has_llm_sandbox: bool
    flood: int
    """New sessions of which the sustained rate is taken."""
    flood_rounds: int
    burst: int
    burst_pool: int
    rate_sessions: tuple[int, ...]
    rate_workers: tuple[int, ...]
    rate_seconds: float
    rate_rounds: int
    alive: tuple[int, ...]
    idle_seconds: float


FULL = Plan(
    total_seconds=570.0,
    part_seconds=240.0,
    warm_rounds=16,
    warm_block=60,
    opening_rounds=7,
    has_llm_sandbox=True,
    flood=36,
    flood_rounds=2,
    burst=50,
    burst_pool=10,
    rate_sessions=(1, 8, 32),
    rate_workers=(1, 2),
    rate_seconds=3.0,
    rate_rounds=2,
    alive=(1, 10, 100),
    idle_seconds=10.0,
)

QUICK = Plan(
    total_seconds=180.0,
    part_seconds=80.0,
    warm_rounds=4,
    warm_block=40,
    opening_rounds=1,
    has_llm_sandbox=False,
    flood=8,
    flood_rounds=1,
    burst=6,
    burst_pool=2,
    rate_sessions=(1, 8),
    rate_workers=(1,),
    rate_seconds=1.5,
    rate_rounds=1,
    alive=(1, 8),
    idle_seconds=2.0,
)
