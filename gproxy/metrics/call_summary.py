"""What is told of one request: by the meters when it is settled, by the access log when its answer is over."""

from dataclasses import dataclass

from gproxy.protocols.hub import Usage


@dataclass(slots=True)
class CallSummary:
    """Filled as the request goes on. It outlives the request's body, and holds neither that nor a key.

    `outcome` is there once the call is settled; until then nothing was sent, or its end is not known.
    """

    protocol: str  # the client's
    operation: str | None = None
    asked: str | None = None  # the model's name as the client sent it
    provider: str | None = None
    model: str | None = None  # the upstream's
    error: str | None = None  # the stable code that the client was told
    outcome: str | None = None
    usage: Usage | None = None
    cost: int | None = None  # in nano-USD
    first_token_s: float | None = None

    def goes_to(self, plan) -> None:
        self.operation, self.asked, self.model = plan.operation, plan.sent_model, plan.model
        self.provider = plan.provider.name
