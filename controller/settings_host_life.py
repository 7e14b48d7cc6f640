"""The table `[host_life]`: how closely hosts are watched."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class HostLifeSettings(BaseModel):
    """How closely the agents' hosts are watched."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    observe_every_s: float = Field(
        30.0,
        gt=0,
        description="The ports of each host are compared with the records so often; one small play each.",
    )
    collect_after_s: float = Field(
        60.0,
        gt=0,
        description="A port that nobody wants and behind which nothing lives is removed when it is seen "
        "dead again after so long.",
    )
