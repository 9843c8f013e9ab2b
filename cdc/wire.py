"""Finds the borders of JSON values in bytes, fast where the bytes are plain and leniently where they are not.

It never changes a byte, never judges a value and does no I/O. The fast parser (msgspec) refuses what JSON forbids or it
cannot hold: a lone surrogate escape, NaN, very deep nesting. The lenient one only follows strings and brackets, so that
one bad event never hides its neighbours.
"""

from __future__ import annotations

import json
import re

import msgspec

_ARRAY = msgspec.json.Decoder(list[msgspec.Raw])
# One token that matters for borders: a whole string, a bracket, a comma or a colon. Possessive: never backtracks.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"|[\[\]{},:]|"', re.DOTALL)
_SPACE = b" \t\r\n"
# How an event begins, up to where events differ: the longer, the faster it is found.
_HEAD = re.compile(rb'\{[ \t]*"\w+"[ \t]*:[ \t]*(?:\{[ \t]*"(?:event|payload|schema)"[ \t]*:[ \t]*)*"?')
# A line break within a number or a word: without it two would become one.
_BROKEN = re.compile(rb'[^\s\[\]{},:"][\r\n]+[^\s\[\]{},:"]')
_CLOSES = {ord("]"): ord("["), ord("}"): ord("{")}
# What bounds memory where an answer is no answer: each message costs a hundred bytes or more to hold, however short.
_LEAST_BYTES = 16  # of a message, on average; the shortest delivery has 52
_MOST_MEMBERS = 100_000  # of one object; Salesforce's have 800 fields
_DENSE = 12  # with a comma in so few bytes the fast parser is not used: it would hold all before anyone could count

Raw = bytes | msgspec.Raw


class Malformed(ValueError):
    """The bytes have no recognisable borders of the value that was asked for."""


def elements(body: bytes) -> list[Raw]:
    """Return each message of an answer as its bytes. A lone object counts as an array of one (Bayeux, section 4.1).

    Raises: Malformed where not even the lenient parser finds where the messages begin and end.
    """
    text = body.strip(_SPACE)
    if text[:1] == b"{":
        text = b"[" + text + b"]"
    if text.count(b",") > 1_000 + len(text) // _DENSE:
        return _lenient_elements(text)
    try:
        found: list[Raw] = _ARRAY.decode(text)  # type: ignore[assignment]
    except (msgspec.DecodeError, RecursionError):
        return _lenient_elements(text)
    if len(found) > _most_elements(text):
        raise Malformed("too many elements for their size")
    return found


def as_lines(body: bytes) -> tuple[memoryview, int, list[Raw]] | None:
    """Return the events of an answer as lines, how many lines these are, and the messages around them.

    None where the answer is not laid out so.

    A border is told by its looks, those of the first one between two events, for that is faster than parsing. It can
    be wrong, but not unnoticed: a line break within a message is no JSON there, and whoever decodes the lines finds as
    many values as there are lines, or refuses them.
    """
    frame = _frame(body)
    if frame is None or b"\n" in body or b"\r" in body:
        return None
    begin, end, head, border, others = frame
    text = (body if begin == 1 else b"[" + body[begin:]).replace(border, b"}\n" + head)
    return memoryview(text)[1 : len(text) - (len(body) - end)], _count_lines(text), others


def around_events(body: bytes) -> list[Raw] | None:
    """Return the messages around the events of an answer, without looking at the events; None where it has not many."""
    frame = _frame(body)
    return frame[-1] if frame else None


def _frame(body: bytes) -> tuple[int, int, bytes, bytes, list[Raw]] | None:
    """Return where the events begin and end, how each begins, what stands between two, and the messages around them.

    None where there are fewer than two, or anything but whole messages around them.
    """
    begin = body.rfind(b"{", 0, max(0, body.find(b'"data":')))
    found = _HEAD.match(body, begin) if begin > 0 else None
    head = found[0] if found else b""
    second = body.find(head, begin + 1)
    gap = body[body.rfind(b"}", 0, max(0, second)) + 1 : max(0, second)]
    if not head or gap.strip(_SPACE) != b",":
        return None
    border = b"}" + gap + head
    last = body.rfind(border) + len(border) - len(head)
    try:
        *before, stand_in = elements(body[:begin] + b"0]")
        event, *after = elements(b"[" + body[last:])
    except Malformed:
        return None
    if bytes(stand_in) != b"0":  # there is more before the first event than whole messages
        return None
    return begin, last + len(event), head, border, [*before, *after]


def _count_lines(text: bytes) -> int:
    """By jumping from one line end to the next: a third of the time of bytes.count, which looks at every byte."""
    count, place = 1, text.find(b"\n")
    while place >= 0:
        count, place = count + 1, text.find(b"\n", place + 1)
    return count


def members(value: Raw) -> dict[str, bytes]:
    """Return the members of an object as raw values, the last of equal names winning, as every JSON parser does.

    Raises: Malformed where the bytes are not one object.
    """
    text = bytes(value).strip(_SPACE)
    found: dict[str, bytes] = {}
    for part in _lenient_parts(text, b"{", b"}", _MOST_MEMBERS):
        name, colon, rest = _split_member(part)
        if not colon:
            raise Malformed("a member without a colon")
        found[name] = rest
    return found


def as_line(value: Raw) -> Raw | None:
    """Return the value fit for one line: line breaks between tokens taken out, otherwise the very same bytes.

    None where a line break stands inside a token (not JSON): such a value cannot be kept as one line unchanged.
    """
    text = bytes(value)
    if b"\n" not in text and b"\r" not in text:
        return value
    line, end = bytearray(), 0
    for token in _TOKEN.finditer(text):
        if token[0][:1] == b'"':
            between = text[end : token.start()]
            if b"\n" in token[0] or b"\r" in token[0] or len(token[0]) == 1 or _BROKEN.search(between):
                return None
            line += between.translate(None, b"\r\n")
            line += token[0]
            end = token.end()
    if _BROKEN.search(text, end):
        return None
    return bytes(line + text[end:].translate(None, b"\r\n"))


def as_text(value: Raw) -> str | None:
    """Return a JSON string's text (lone surrogates kept), None for any other value."""
    try:
        decoded = json.loads(bytes(value))
    except (ValueError, RecursionError):
        return None
    return decoded if isinstance(decoded, str) else None


def _most_elements(text: bytes) -> int:
    return 1_000 + len(text) // _LEAST_BYTES


def _lenient_elements(text: bytes) -> list[Raw]:
    parts = _lenient_parts(text, b"[", b"]", _most_elements(text))
    if not all(parts):
        raise Malformed("an empty array element")
    return list(parts)


def _lenient_parts(text: bytes, opening: bytes, closing: bytes, most: int) -> list[bytes]:
    """Return what stands between the commas of the outermost brackets, stripped; more than `most` are refused."""
    if text[:1] != opening:
        raise Malformed(f"does not start with {opening.decode()}")
    depth = bytearray()
    begin = 1
    parts: list[bytes] = []
    for token in _TOKEN.finditer(text):
        mark = text[token.start()]
        if mark in b"[{":
            depth.append(mark)
        elif mark in b"]}":
            if not depth or depth.pop() != _CLOSES[mark]:
                raise Malformed("brackets do not match")
            if not depth:
                parts.append(text[begin : token.start()].strip(_SPACE))
                if text[token.end() :].strip(_SPACE):
                    raise Malformed("bytes after the closing bracket")
                break
        elif mark == ord(",") and len(depth) == 1:
            parts.append(text[begin : token.start()].strip(_SPACE))
            begin = token.end()
            if len(parts) >= most:
                raise Malformed("too many parts for their size")
        elif mark == ord('"') and token.end() - token.start() == 1:
            raise Malformed("a string that never ends")
    else:
        raise Malformed(f"no closing {closing.decode()}")
    return [] if parts == [b""] else parts


def _split_member(part: bytes) -> tuple[str, bytes, bytes]:
    token = _TOKEN.match(part)
    if token is None or len(token[0]) < 2:
        raise Malformed("a member without a name")
    name = as_text(token[0])
    if name is None:  # not UTF-8, or a bad escape: it is none of the names that are asked for
        name = token[0].decode("utf-8", "replace")
    rest = part[token.end() :].lstrip(_SPACE)
    return name, rest[:1] if rest[:1] == b":" else b"", rest[1:].strip(_SPACE)
