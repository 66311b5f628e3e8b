"""What pages that need nothing else are made of: safe text, pictures inside the page, the colours of all pages."""

from __future__ import annotations

import base64
from html import escape
from importlib.resources import files
from typing import Literal


def text(value: str) -> str:
    """Text, safe inside HTML and inside quoted attributes."""
    return escape(value, quote=True)


def data_uri(data: bytes, kind: Literal["image/jpeg", "image/png"]) -> str:
    """A picture as an address that holds it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def base_style() -> str:
    """The style sheet that all pages begin with: colours, light and dark, and the plainest elements."""
    return (files("yolo_lite.utils") / "page.css").read_text(encoding="utf-8")
