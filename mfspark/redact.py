"""Secrets that a URI or a message may hold, taken out of what is shown and stored."""

import re

_HIDDEN = "***"
_NAMES = (
    r"[\w.-]*(?:secret|password|passwd|token|credential|signature|access[-_.]?key|account[-_.]?key"
    r"|api[-_.]?key|\bsig\b)[\w.-]*"
)
# user:secret@ behind a scheme; not the port of a host, nor the container of abfs://container@…
_OF_A_USER = re.compile(r"""(://[^/\s:@"']*:)(?!\d+(?:[/\s"']|$))[^\s@"']*(?=@)""")
# token@ of the schemes where nothing but a user comes there.
_OF_THE_WEB = re.compile(r"""(https?://)[^/\s:@"']+(?=@)""", re.IGNORECASE)
# …?signature=…, spark.hadoop.fs.s3a.secret.key=…, "password": "…"
_NAMED = re.compile(rf"""({_NAMES}["']?\s*[=:]\s*["']?)[^\s&;,"']+""", re.IGNORECASE)
_IN_A_QUERY = re.compile(rf"[?&;]{_NAMES}=", re.IGNORECASE)


def redacted(text: str) -> str:
    """``text`` with *** in place of the secrets of URIs (those of users, signatures, tokens) and of
    properties whose names tell that they are secret."""
    for pattern in (_OF_A_USER, _OF_THE_WEB, _NAMED):
        text = pattern.sub(rf"\g<1>{_HIDDEN}", text)
    return text


def holds_secret(text: str) -> bool:
    """Whether ``text`` is a URI with a secret in it, which would be stored with it everywhere."""
    patterns = (_OF_A_USER, _OF_THE_WEB, _IN_A_QUERY)
    return "://" in text and any(pattern.search(text) for pattern in patterns)
