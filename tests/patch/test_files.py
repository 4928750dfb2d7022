"""Values files."""

import pytest

from elfpatch.errors import BadValue, ElfpatchError, Missing
from elfpatch.patch.files import load_file


def load(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return load_file(str(path))


def test_json_and_toml_say_the_same(tmp_path):
    expected = {"foo": 42, "ep": {"ip4": "10.0.0.5", "ports": [80, 443]}, "on": True, "big": (1 << 64) - 1}
    toml = f'foo = 42\non = true\nbig = {(1 << 64) - 1}\n[ep]\nip4 = "10.0.0.5"\nports = [80, 443]\n'
    json = f'{{"foo": 42, "ep": {{"ip4": "10.0.0.5", "ports": [80, 443]}}, "on": true, "big": {(1 << 64) - 1}}}'
    assert load(tmp_path, "a.toml", toml) == expected
    assert load(tmp_path, "b.json", json) == expected
    assert load(tmp_path, "values", toml) == expected
    assert load(tmp_path, "values", "  \n" + json) == expected
    assert load(tmp_path, "c.json", b"\xef\xbb\xbf" + json.encode()) == expected


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.json", '{\n"a": 1,\n"b": }', "a.json:3: not JSON: Expecting value"),
        ("a.json", '{"a": {"x": 1},\n "b": {"x": 1,\n"y\\"": 2,\n "x": 3}}', "a.json:4: the key `x` occurs twice"),
        ("a.json", "[1]", "a.json:1: the file does not hold an object"),
        ("a.json", "", "a.json:1: not JSON"),
        ("a.json", '{"a": Infinity}', "Infinity is not a value"),
        ("a.toml", "a = 1\nb = \n", "a.toml:2: not TOML: Invalid value"),
        ("a.toml", "a = 1\na = 2\n", "a.toml:2: not TOML: Cannot overwrite a value"),
        ("a.toml", "a = 010\n", "a.toml:1: not TOML"),
        ("a.toml", b"a = 1\nb = '\xff'\n", "a.toml:2: the file is not UTF-8"),
        ("a.yaml", "a: 1\n", "YAML is not read"),
        ("values", "a: 1\n", "values:1: not TOML"),
        ("a.json", "[" * 100_000, "nested too deep"),
    ],
)
def test_bad_files_name_the_line(tmp_path, name, text, words):
    with pytest.raises(BadValue) as caught:
        load(tmp_path, name, text)
    assert words in str(caught.value) and caught.value.exit_code == 65


def test_missing_files(tmp_path):
    with pytest.raises(Missing) as caught:
        load_file(str(tmp_path / "none.json"))
    assert caught.value.exit_code == 66
    with pytest.raises(ElfpatchError) as caught:
        load_file(str(tmp_path))
    assert caught.value.exit_code == 66
