"""Routes of the contract that a later version fills: they say so, to whom they may."""

from flask import Blueprint, request

from gproxy.errors import Unsupported
from gproxy.web import inbound
from gproxy.web.admin import guard
from gproxy.web.faults import runtime

blueprint = Blueprint("unbuilt", __name__)


def _unsupported() -> Unsupported:
    return Unsupported(f"{request.path} is not supported by this version")


@blueprint.post("/login")
@blueprint.get("/console")
@blueprint.get("/console/<path:rest>")
@blueprint.get("/openapi.json")
def later(**_) -> None:
    raise _unsupported()


@blueprint.route("/user/<path:rest>", methods=["GET", "POST"])
def for_users(**_) -> None:
    runtime().relay.admit(inbound.key(request.environ, False))
    raise _unsupported()


@blueprint.get("/metrics")
@blueprint.get("/admin/health")
@blueprint.get("/admin/global-settings")
@blueprint.post("/admin/<path:rest>")
def for_admins(**_) -> None:
    guard()
    raise _unsupported()
