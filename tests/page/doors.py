"""The HTTP functions as the host calls them: by name, with a request, for an answer."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import azure.functions as func


def trigger_of(name: str) -> dict[str, Any]:
    """Return the trigger of the function with that name, as the host is told."""
    binding: dict[str, Any] = _function(name).get_trigger().get_dict_repr()
    return binding


def call(name: str, *, accept: str = "", query: Mapping[str, str] | None = None) -> func.HttpResponse:
    """Call the function as for a GET request."""
    request = func.HttpRequest(
        "GET", f"http://localhost/api/{name}", headers={"Accept": accept}, params=dict(query or {}), body=b""
    )
    answer = _function(name).get_user_function()(request)
    assert isinstance(answer, func.HttpResponse)
    return answer


def _function(name: str) -> Any:
    return _functions()[name]


@cache
def _functions() -> dict[str, Any]:
    """Asked for once: the library refuses to tell twice."""
    import function_app  # late: it reads the environment's channel groups

    return {str(each.get_function_name()): each for each in function_app.app.get_functions()}
