"""The answer to OPTIONS, alike on every path. It needs no key: a browser sends none before the call itself."""

from flask import Flask, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed
from werkzeug.routing import Rule

from gproxy.web.error_responses import PREFLIGHT

# A method that no route has: the router then raises with the methods of the path.
_NO_METHOD = "--"
_LLM_PATHS = (["v1"], ["v1beta"], ["<provider>", "v1"], ["<provider>", "v1beta"])


def answer(app: Flask, path: str) -> Response | None:
    """Returns the answer on this path, with the CORS headers if it is an LLM route; None if no route has the path."""
    router = app.url_map.bind("")
    try:
        router.match(path, method=_NO_METHOD)
    except MethodNotAllowed as fault:
        methods = sorted(fault.valid_methods)
    except HTTPException:
        return None
    rule, _ = router.match(path, method=methods[0], return_rule=True)
    return Response(status=204, headers=[("Allow", ", ".join(methods)), *(PREFLIGHT if is_llm(rule) else ())])


def is_llm(rule: Rule) -> bool:
    """Returns whether a rule is an LLM route: one below a version, of gproxy as a whole or of a provider."""
    parts = rule.rule.split("/")[1:3]
    return parts[:1] in _LLM_PATHS or parts in _LLM_PATHS
