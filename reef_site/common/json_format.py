"""JSON on the wire: any content type in, compact UTF-8 out, dates in the agents' format."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import IO, Any

import orjson
from django.http import HttpResponse
from rest_framework.exceptions import ParseError
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request

from reef_site.common.clock import format_timestamp
from reef_site.common.text import find_surrogate, replace_surrogates


def dumps(data: object) -> bytes:
    """Return compact UTF-8 JSON with dates in the wire format. A lone surrogate becomes `?`."""
    try:
        return _encode(data)
    except TypeError:
        # An error that quotes its input must still be sent.
        return _encode(replace_surrogates(data))


def _encode(data: object) -> bytes:
    return orjson.dumps(data, default=_default, option=orjson.OPT_PASSTHROUGH_DATETIME)


def json_response(data: object, status: int = 200) -> HttpResponse:
    """Return a JSON response in the wire format, for views outside of the API."""
    return HttpResponse(dumps(data), status=status, content_type="application/json")


class AnyTypeJSONParser(BaseParser):
    """Parse the body as JSON whatever its content type; an empty body is `{}`."""

    media_type = "*/*"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """Return the JSON value. Raises ParseError."""
        body = stream.read()
        if not body.strip():
            return {}
        try:
            # json, not orjson: lone surrogates are refused below, with the field's name.
            value = json.loads(body.decode("utf-8"))
        except UnicodeDecodeError:
            raise ParseError("body: is not UTF-8") from None
        except RecursionError:
            raise ParseError("body: is nested too deeply") from None
        except ValueError as error:
            raise ParseError(f"body: is not JSON ({error})") from None
        # Surrogates can only come from escapes.
        if rb"\u" in body and (path := find_surrogate(value)):
            return self.with_surrogates(value, path)
        return value

    def with_surrogates(self, _value: Any, path: str) -> Any:
        """Handle a value with a lone surrogate at `place`; here it is refused."""
        raise ParseError(f"{path}: has characters that are no text")


class RepairingJSONParser(AnyTypeJSONParser):
    """Parser for the output of programs: a lone surrogate becomes `?`."""

    def with_surrogates(self, value: Any, _place: str) -> Any:
        """Return the value with all lone surrogates replaced."""
        return replace_surrogates(value)


class WireJSONRenderer(BaseRenderer):
    """Render compact JSON without a charset in its content type."""

    media_type = "application/json"
    format = "json"
    charset = None
    render_style = "binary"

    def render(
        self,
        data: Any,
        accepted_media_type: str | None = None,
        renderer_context: Mapping[str, Any] | None = None,
    ) -> bytes:
        """Return UTF-8 bytes with dates in the wire format."""
        if data is None:
            return b""
        return dumps(data)


class AlwaysJSON(BaseContentNegotiation):
    """Select JSON, whatever the client accepts."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """Return the only parser."""
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: Any = None) -> Any:
        """Return the only renderer, with its media type."""
        return renderers[0], renderers[0].media_type


def _default(value: object) -> object:
    if isinstance(value, datetime):
        return format_timestamp(value)
    return str(value)
