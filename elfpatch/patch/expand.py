"""Nested mappings whose outer key is no variable: TOML reads `fn.var = 1` as `{fn = {var = 1}}`."""

from __future__ import annotations

from elfpatch.errors import BadValue
from elfpatch.index import Index
from elfpatch.patch.place import resolve
from elfpatch.patch.setting import Setting


def expand(index: Index, setting: Setting) -> list[Setting]:
    """The settings that a DATA setting stands for: itself, unless its path names nothing and its value is a mapping
    whose keys lengthen the path to names that exist."""
    value = setting.value
    if not isinstance(value, dict) or not value or _exists(index, setting.path):
        return [setting]
    parts = []
    for key, inner in value.items():
        origin = f"{setting.origin}.{key}"
        part = Setting(setting.kind, f"{setting.path}.{key}", inner, origin, setting.level)
        deeper = expand(index, part)
        if len(deeper) == 1 and deeper[0] is part and not _exists(index, part.path):
            return [setting]
        parts += deeper
    return parts


def _exists(index: Index, path: str) -> bool:
    try:
        resolve(index, path)
    except BadValue:
        return False
    return True
