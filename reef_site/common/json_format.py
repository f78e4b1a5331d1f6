"""How JSON goes over the wire: any content type in, compact UTF-8 out, dates as agents know."""

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
    """Compact UTF-8 JSON with dates in the wire's form. Half a surrogate pair becomes `?`."""
    try:
        return _encode(data)
    except TypeError:
        # An error that repeats its input is still to be said.
        return _encode(replace_surrogates(data))


def _encode(data: object) -> bytes:
    return orjson.dumps(data, default=_default, option=orjson.OPT_PASSTHROUGH_DATETIME)


def json_answer(data: object, status: int = 200) -> HttpResponse:
    """JSON in the wire's form from a view that is not the API's."""
    return HttpResponse(dumps(data), status=status, content_type="application/json")


class AnyTypeJSONParser(BaseParser):
    """Reads the body as JSON whatever its content type says. Nothing sent is `{}`."""

    media_type = "*/*"

    def parse(
        self,
        stream: IO[Any],
        media_type: str | None = None,
        parser_context: Mapping[str, Any] | None = None,
    ) -> Any:
        """The JSON value, or a ParseError with what is wrong."""
        body = stream.read()
        if not body.strip():
            return {}
        try:
            # json, not orjson: half a surrogate pair is refused below, with its field's name.
            value = json.loads(body.decode("utf-8"))
        except UnicodeDecodeError:
            raise ParseError("body: is not UTF-8") from None
        except RecursionError:
            raise ParseError("body: is nested too deeply") from None
        except ValueError as error:
            raise ParseError(f"body: is not JSON ({error})") from None
        # Only an escape can bring one in; without any, nothing needs to be looked at.
        if rb"\u" in body and (place := find_surrogate(value)):
            return self.with_surrogates(value, place)
        return value

    def with_surrogates(self, _value: Any, place: str) -> Any:
        """What is made of a value with half a surrogate pair at this place; here it is refused."""
        raise ParseError(f"{place}: has characters that are no text")


class RepairingJSONParser(AnyTypeJSONParser):
    """For what programs print: half a surrogate pair becomes `?`."""

    def with_surrogates(self, value: Any, _place: str) -> Any:
        """The value with all of them replaced."""
        return replace_surrogates(value)


class WireJSONRenderer(BaseRenderer):
    """Compact JSON without a charset in its content type."""

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
        """UTF-8 bytes; dates in the wire's form."""
        if data is None:
            return b""
        return dumps(data)


class AlwaysJSON(BaseContentNegotiation):
    """The API answers JSON, whatever the client says it accepts."""

    def select_parser(self, request: Request, parsers: Any) -> Any:
        """The only parser."""
        return parsers[0]

    def select_renderer(self, request: Request, renderers: Any, format_suffix: Any = None) -> Any:
        """The only renderer, with its media type."""
        return renderers[0], renderers[0].media_type


def _default(value: object) -> object:
    if isinstance(value, datetime):
        return format_timestamp(value)
    return str(value)
