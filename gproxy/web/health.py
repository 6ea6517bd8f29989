"""Liveness and readiness. The responses hold flags and counts but no names, and need no key."""

from flask import Blueprint

from gproxy.web.error_responses import runtime

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> dict:
    return {"status": "ok"}


@blueprint.get("/readyz")
def readyz() -> tuple[dict, int]:
    report = runtime().status.readiness()
    return report, 200 if report["serving"] else 503
