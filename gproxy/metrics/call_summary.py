"""The summary of one call: metrics read it when the call is settled, the access log when its answer has ended."""

from dataclasses import dataclass

from gproxy.protocols.hub import Usage


@dataclass(slots=True)
class CallSummary:
    """Filled while the request is served. It outlives the request's body, and contains neither body nor key.

    `outcome` is None until the call is settled.
    """

    protocol: str  # of the client
    operation: str | None = None
    requested_model: str | None = None  # the model name that the client sent
    provider: str | None = None
    model: str | None = None  # the upstream's model name
    error: str | None = None  # the stable code of the error that the client received
    outcome: str | None = None
    usage: Usage | None = None
    cost: int | None = None  # in nano-USD
    first_token_s: float | None = None

    def set_target(self, plan) -> None:
        """Takes operation, provider and models from the plan of the current attempt."""
        self.operation, self.requested_model, self.model = plan.operation, plan.sent_model, plan.model
        self.provider = plan.provider.name
