"""Settings: which pools of different owners may reach each other all the same."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from mooring.ipam.reach import Reach

REACH = (
    "Pools that may reach each other although their `owners` differ; "
    "without it the switch ports of their containers keep them apart."
)


class ReachSettings(BaseModel):
    """One `[[reach]]`: pools each of which may reach each of the others."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    pools: tuple[str, ...] = Field(
        min_length=2, description="Names of pools, also of such as are made while the daemon runs."
    )


def reach_of(tables: tuple[ReachSettings, ...]) -> Reach:
    """The rules as the pools are asked about them."""
    return Reach(table.pools for table in tables)
