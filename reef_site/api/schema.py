"""The OpenAPI schema of the API, made from the declarations of the endpoints.

`manage.py spectacular --file reef_site/api/schema.yaml` writes it; a test compares it with the
code.
"""

from __future__ import annotations

import re
from typing import Any

from drf_spectacular.extensions import (
    OpenApiAuthenticationExtension,
    OpenApiSerializerFieldExtension,
)
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.types import OpenApiTypes
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, OpenApiResponse
from rest_framework.permissions import SAFE_METHODS

from reef_site.api.authentication import NO_HEADER
from reef_site.common.api.endpoints import Endpoint
from reef_site.common.api.fields import ApiField
from reef_site.common.api.serializers import ErrorResponse

Json = dict[str, Any]
JSON = "application/json"
FORBIDDEN = (
    "rule: a node reads the fleet's registry and tree, and transcripts, config and machines of"
    " itself and its descendants; it writes about itself and its descendants, and commands its"
    " descendants. vm-7 may not write vm-8"
)
NOT_FOUND = "not found"
_PARAMETER = re.compile(r"\(\?P<(\w+)>(?:[^()]|\([^()]*\))*\)")

# A parameter of a path that is one of some words.
_WORDS = re.compile(r"\(\?P<(\w+)>([\w-]+(?:\|[\w-]+)+)\)")


class EndpointSchema(AutoSchema):
    """Describes a handler by its `endpoint` declaration. Others are not part of the schema."""

    @property
    def _endpoint(self) -> Endpoint | None:
        handler = getattr(self.view, getattr(self.view, "action", None) or self.method.lower())
        return getattr(handler, "endpoint", None)

    def is_excluded(self) -> bool:
        return self._endpoint is None

    @property
    def _declared(self) -> Endpoint:
        declared = self._endpoint
        assert declared is not None, "excluded"
        return declared

    def _is_list_view(self, serializer: Any = None) -> bool:
        # The declared response is the whole one, also that of a viewset's `list`.
        return False

    def get_tags(self) -> list[str]:
        return [self.path.strip("/").split("/")[0]]

    def get_operation_id(self) -> str:
        words = re.findall(r"[a-zA-Z0-9]+", self.path)
        return "_".join([self.method.lower(), *words])

    def get_summary(self) -> str | None:
        return self._paragraphs()[0].rstrip(".") or None

    def get_description(self) -> str:  # type: ignore[override]
        return "\n\n".join(self._paragraphs()[1:])

    def _paragraphs(self) -> list[str]:
        """Return the paragraphs of the handler's docstring, without line breaks."""
        text = AutoSchema.get_description(self)
        return [" ".join(part.split()) for part in text.split("\n\n")]

    def get_override_parameters(self) -> list[Any]:
        query = self._declared.query
        fields: Json = dict(query().fields.items()) if query else {}
        words = [
            OpenApiParameter(name, enum=each.split("|"), location=OpenApiParameter.PATH)
            for name, each in _WORDS.findall(self.path_regex)
        ]
        return words + [
            OpenApiParameter(
                name=name,
                type=field.schema(),
                location=OpenApiParameter.QUERY,
                description=str(field.help_text or ""),
                default=None if callable(field.default) else field.default or None,
            )
            for name, field in fields.items()
        ]

    def map_parsers(self) -> list[str]:
        return [JSON]

    def get_request_serializer(self) -> Any:
        return self._declared.body

    def get_response_serializers(self) -> Any:
        found: dict[Any, Any] = {}
        for status, content in self._declared.responses.items():
            for each in content if isinstance(content, tuple) else (content,):
                if isinstance(each, str):
                    is_text = each.startswith(("text/", "multipart/"))
                    data = OpenApiTypes.STR if is_text else OpenApiTypes.BINARY
                    found[status, each] = OpenApiResponse(data, description="")
                else:
                    key = (status, JSON) if isinstance(content, tuple) else status
                    found[key] = OpenApiResponse(each, description="")
        return {**found, **{status: _error(text) for status, text in self._errors().items()}}

    def _errors(self) -> dict[int, str]:
        """Return an example of each error, by its status."""
        declared = self._declared
        takes = ", ".join(declared.query.names()) if declared.query else "nothing"
        errors: dict[int, str] = {}
        if declared.query or declared.body or not declared.names.anything:
            errors[400] = f"colour: not known; this route takes {takes} in its query"
        if self.view.authentication_classes:
            errors[401] = NO_HEADER
        if "{" in self.path:
            # No route matches, or nothing has this name.
            errors[404] = NOT_FOUND
        if self.method not in SAFE_METHODS:
            errors[403] = FORBIDDEN
        return dict(sorted({**errors, **declared.errors}.items()))

    def get_examples(self) -> list[OpenApiExample]:
        declared, found = self._declared, []
        if declared.body and declared.body.example:
            found.append(OpenApiExample("Request", declared.body.example, request_only=True))
        for status, content in declared.responses.items():
            example = getattr(content, "example", None)
            if example and status not in declared.errors:
                found.append(
                    OpenApiExample(
                        "Response", example, response_only=True, status_codes=[str(status)]
                    )
                )
        return found


def _error(text: str) -> OpenApiResponse:
    return OpenApiResponse(
        ErrorResponse, description="", examples=[OpenApiExample("Error", {"error": text})]
    )


class ApiFieldExtension(OpenApiSerializerFieldExtension):  # type: ignore[no-untyped-call]
    """Our fields know their own schema."""

    target_class = ApiField
    match_subclasses = True

    def map_serializer_field(self, auto_schema: AutoSchema, direction: str) -> Json:
        schema: Json = self.target.schema()
        return schema


class BearerExtension(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    target_class = "reef_site.api.authentication.BearerAuthentication"
    name = "token"

    def get_security_definition(self, auto_schema: AutoSchema) -> Json:
        return {"type": "http", "scheme": "bearer"}


class JoinTokenExtension(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """A token that lets one VM join; most routes refuse it."""

    target_class = "bootloader.join.api.JoinTokenAuthentication"
    name = "joinToken"

    def get_security_requirement(self, auto_schema: AutoSchema) -> Any:
        if not getattr(auto_schema.view, "allows_join_tokens", False):
            return None
        return super().get_security_requirement(auto_schema)

    def get_security_definition(self, auto_schema: AutoSchema) -> Json:
        return {"type": "http", "scheme": "bearer"}


class SessionExtension(OpenApiAuthenticationExtension):  # type: ignore[no-untyped-call]
    """The cookie's real name ends with the id of the data folder."""

    target_class = "rest_framework.authentication.SessionAuthentication"
    name = "session"
    priority = 1

    def get_security_definition(self, auto_schema: AutoSchema) -> Json:
        return {"type": "apiKey", "in": "cookie", "name": "reef-session"}


def plain_paths(endpoints: list[Any]) -> list[Any]:
    """Write the paths of routes as in the documentation, `/registry/vms/{vm_id}`."""
    found = []
    for _path, regex, method, callback in endpoints:
        path = _PARAMETER.sub(r"{\1}", regex)
        path = path.replace("(?:/|$)", "/").replace("/?", "").replace("^", "").replace("$", "")
        found.append((f"/{path.lstrip('/')}", regex, method, callback))
    return found
