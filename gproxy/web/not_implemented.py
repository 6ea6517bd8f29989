"""Reserved routes that this version does not implement. They answer 501."""

from flask import Blueprint, request

from gproxy.errors import Unsupported
from gproxy.web.auth import guard_admin

blueprint = Blueprint("not_implemented", __name__)


def _unsupported() -> Unsupported:
    return Unsupported(f"{request.path} is not supported by this version")


@blueprint.get("/console")
@blueprint.get("/console/<path:tail>")
def console(**_) -> None:
    raise _unsupported()


@blueprint.post("/admin/<path:tail>")
def admin(**_) -> None:
    guard_admin()
    raise _unsupported()
