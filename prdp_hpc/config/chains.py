"""The section `emulator`: the chain of network and solver through which an emulator is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from prdp_hpc.config.models import Count, Section
from prdp_hpc.errors import InputError


class EmulatorSection(Section):
    """The training chain of an emulator; see docs/howto/training.md."""

    chain: Literal["mixed", "one_step", "rollout", "diverted"] = "mixed"
    """Chain of network and solver steps whose loss is minimised."""
    unroll: Count = 1
    """Number of network steps through which the loss is differentiated."""
    every: Count = 1
    """Network steps between two solver steps of the diverted chain."""

    @property
    def window(self) -> int:
        """Number of states that a training sample needs."""
        return {"mixed": self.unroll + 2, "diverted": 1}.get(self.chain, self.unroll + 1)

    @property
    def solver_steps(self) -> int:
        """Number of time steps of the solver per training sample."""
        return {"mixed": 1, "diverted": -(-self.unroll // self.every)}.get(self.chain, 0)

    @model_validator(mode="after")
    def _used_keys(self) -> EmulatorSection:
        if self.chain == "one_step" and self.unroll != 1:
            raise InputError(
                f"unroll is {self.unroll}, but the chain one_step has 1 network step: choose the "
                "chain rollout"
            )
        if self.every != 1 and (self.chain != "diverted" or self.every > self.unroll):
            raise InputError(
                f"every is {self.every}, which only the chain diverted uses, with every ≤ unroll: "
                "leave it out or change chain or unroll"
            )
        return self
