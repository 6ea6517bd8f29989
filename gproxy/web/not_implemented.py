"""Routes of the contract that a later version fills: they say so, to whom they may."""

from flask import Blueprint, request

from gproxy.errors import Unsupported
from gproxy.web.auth import guard_admin

blueprint = Blueprint("unbuilt", __name__)


def _unsupported() -> Unsupported:
    return Unsupported(f"{request.path} is not supported by this version")


@blueprint.get("/console")
@blueprint.get("/console/<path:rest>")
def later(**_) -> None:
    raise _unsupported()


@blueprint.post("/admin/<path:rest>")
def for_admins(**_) -> None:
    guard_admin()
    raise _unsupported()
