"""The metrics for Prometheus. They need an administrator's key because they name providers and models."""

from flask import Blueprint, Response

from gproxy.metrics.exposition import CONTENT_TYPE
from gproxy.web.auth import guard_admin
from gproxy.web.error_responses import runtime

blueprint = Blueprint("metrics", __name__)
blueprint.before_request(guard_admin)


@blueprint.get("/metrics")
def metrics() -> Response:
    return Response(runtime().status.metrics(), content_type=CONTENT_TYPE)
