"""Whether the process is up, and whether it can do its work. Flags and counts, no names, no key needed."""

from flask import Blueprint

from gproxy.web.error_responses import runtime

blueprint = Blueprint("health", __name__)


@blueprint.get("/healthz")
def healthz() -> dict:
    return {"status": "ok"}


@blueprint.get("/readyz")
def readyz() -> tuple[dict, int]:
    report = runtime().readiness()
    return report, 200 if report["serving"] else 503
