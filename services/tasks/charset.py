"""Bytes of a page to text."""

from __future__ import annotations

import codecs
import re

__all__ = ["decode_page"]

# Only what pages really use: Python also knows encodings that take quadratic time (punycode, idna).
_KNOWN = frozenset(
    {
        *("utf-8", "utf-16", "utf-16-le", "utf-16-be", "koi8-r", "koi8-u", "mac-roman"),
        *(f"cp{page}" for page in (866, 874, *range(1250, 1259))),
        *(f"iso8859-{part}" for part in (2, 3, 4, 5, 6, 7, 8, 10, 13, 14, 15, 16)),
        *("shift_jis", "cp932", "euc_jp", "iso2022_jp", "gb2312", "gbk", "gb18030", "big5", "euc_kr"),
    }
)
# The web reads these two as the larger set that contains them.
_LATIN = frozenset({"ascii", "iso8859-1"})
_MARKS = ((codecs.BOM_UTF8, "utf-8"), (codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be"))
_IN_TYPE = re.compile(r"charset\s*=\s*[\"']?([\w.:+-]{1,40})", re.IGNORECASE)
_IN_META = re.compile(rb"<meta[^>]{0,200}?charset\s{0,9}=\s{0,9}[\"']?([\w.:+-]{1,40})", re.IGNORECASE)
HEAD = 1024  # bytes in which a page must name its encoding


def decode_page(body: bytes, content_type: str) -> str:
    """Text by byte order mark, header, `<meta charset>`, else UTF-8; what does not fit becomes U+FFFD."""
    for mark, encoding in _MARKS:
        if body.startswith(mark):
            return body[len(mark) :].decode(encoding, "replace")
    named = _IN_TYPE.search(content_type)
    if named is not None:
        return body.decode(_encoding(named[1]), "replace")
    meta = _IN_META.search(body[:HEAD])
    return body.decode(_encoding(meta[1].decode("latin-1")) if meta else "utf-8", "replace")


def _encoding(label: str) -> str:
    try:
        name = codecs.lookup(label).name
    except (LookupError, ValueError):
        return "utf-8"
    if name in _LATIN:
        return "cp1252"
    return name if name in _KNOWN else "utf-8"
