"""Values in objects that clang compiled: a patched object equals one compiled with the values as initializers.

The compiler is the oracle for everything that concerns layout: offsets, padding, bit-fields, byte order.
"""

import json
import random
import shutil
import subprocess

import pytest

from elfpatch.index import Index, Variable
from elfpatch.patch.image import Template, digest, make_image, written
from elfpatch.patch.path import leaves, resolve
from elfpatch.patch.setting import DATA, Setting, from_set, from_set_json
from elfpatch.patch.value import show
from elfpatch.template.compile import compile_object

CLANG = shutil.which("clang-19")
INTEGERS = {  # C name: bits, signed
    "unsigned char": (8, False),
    "signed char": (8, True),
    "unsigned short": (16, False),
    "short": (16, True),
    "unsigned int": (32, False),
    "int": (32, True),
    "unsigned long long": (64, False),
    "long long": (64, True),
}
ENUMERATORS = {"RED": 0, "GREEN": 7, "BLUE": 200}
HEAD = """
typedef unsigned int __u32;
typedef __u32 __be32;
typedef unsigned short __be16;
enum colour { RED, GREEN = 7, BLUE = 200 };
enum tilt { DOWN = -3, LEVEL = 0, UP = 5 };
enum __attribute__((packed)) tiny { NO, YES = 9 };
enum wide { NEAR = 1, FAR = 0x1234567890ULL };
#define SECTION(name) __attribute__((section(name), used))
"""


def clang(tmp_path, name: str, source: str, target: str) -> bytes:
    assert CLANG, "clang-19 is needed"
    path, out = tmp_path / f"{name}.c", tmp_path / f"{name}.{target}.o"
    path.write_text(source)
    flags = ["-O2", "-g", "-Wall", "-Werror", "-Wno-initializer-overrides", "-Wno-missing-braces"]
    subprocess.run([CLANG, f"--target={target}", *flags, "-c", path, "-o", out], check=True, timeout=60)
    return out.read_bytes()


def opened(data: bytes, stem: str = "prog") -> Template:
    return Template(f"{stem}.o", data, Index(compile_object(data, stem)))


class Made:
    """Random C types and values, written as C and as data."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.seed = seed
        self.definitions: list[str] = []

    def struct(self, depth: int) -> tuple[str, object, str]:
        """C name, value as data, value as C initializer of a new struct."""
        fields, data, init = [], {}, []
        for n in range(self.random.randint(1, 6)):
            for declaration, name, value, text in self.member(f"m{n}", depth):
                fields.append(declaration)
                if name:
                    data[name] = value
                    init.append(f".{name} = {text}")
        name = f"s{self.seed}_{len(self.definitions)}"
        packed = " __attribute__((packed))" if self.random.random() < 0.15 else ""
        self.definitions.append(f"struct {name} {{ {' '.join(fields)} }}{packed};")
        return f"struct {name}", data, f"{{ {', '.join(init)} }}"

    def member(self, name: str, depth: int):
        """Declarations with name, data and initializer: one, or a run of bit-fields, or an anonymous union."""
        choice = self.random.random()
        if choice < 0.3:
            return [self.bits(f"{name}_{n}") for n in range(self.random.randint(1, 4))]
        if choice < 0.4 and depth:
            inner = [self.plain(f"{name}_u{n}") for n in range(2)]
            body = " ".join(f"{kind} {one};" for kind, one, _, _ in inner)
            kind, one, value, text = max(inner, key=lambda item: _width(item[0]))
            return [(f"union {{ {body} }};", one, value, text)]
        if choice < 0.55 and depth:
            kind, value, text = self.struct(depth - 1)
            return [(f"{kind} {name};", name, value, text)]
        if choice < 0.7:
            count = self.random.randint(1, 3)
            kind = self.random.choice(list(INTEGERS))
            rows = [[self.integer(*INTEGERS[kind]) for _ in range(2)] for _ in range(count)]
            text = "{" + ", ".join("{" + ", ".join(_c(v, *INTEGERS[kind]) for v in row) + "}" for row in rows) + "}"
            return [(f"{kind} {name}[{count}][2];", name, rows, text)]
        kind, one, value, text = self.plain(name)
        return [(f"{kind} {one};", one, value, text)]

    def bits(self, name: str):
        choice = self.random.random()
        if choice < 0.15:
            value = self.random.choice([True, False])
            return f"_Bool {name} : 1;", name, value, str(int(value))
        if choice < 0.3:
            value = self.random.choice(list(ENUMERATORS))
            return f"enum colour {name} : {self.random.randint(8, 12)};", name, value, value
        if choice < 0.4:
            value = self.random.choice(["DOWN", "LEVEL", "UP"])
            return f"enum tilt {name} : {self.random.randint(4, 9)};", name, value, value
        kind = self.random.choice(list(INTEGERS))
        bits, signed = INTEGERS[kind]
        width = self.random.randint(1, bits)
        value = self.integer(width, signed)
        return f"{kind} {name} : {width};", name, value, _c(value, bits, signed)

    def plain(self, name: str):
        choice = self.random.random()
        if choice < 0.1:
            value = self.random.choice([True, False])
            return "_Bool", name, value, str(int(value))
        for kind, values in (("enum colour", list(ENUMERATORS)), ("enum tiny", ["NO", "YES"]), ("enum wide", ["FAR"])):
            if choice < 0.15 and self.random.random() < 0.5:
                value = self.random.choice(values)
                return kind, name, value, value
        kind = self.random.choice(list(INTEGERS))
        value = self.integer(*INTEGERS[kind])
        return kind, name, value, _c(value, *INTEGERS[kind])

    def integer(self, bits: int, signed: bool) -> int:
        low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, (1 << bits) - 1)
        return self.random.choice([low, high, self.random.randint(low, high)])


def _width(kind: str) -> int:
    return INTEGERS.get(kind, (64 if kind == "enum wide" else 8 if kind in ("_Bool", "enum tiny") else 32,))[0]


def _c(value: int, bits: int, signed: bool) -> str:
    if signed and value == -(1 << 63):
        return "(-0x7fffffffffffffffLL - 1)"
    return f"{value}{'LL' if signed else 'ULL'}" if bits == 64 else str(value)


def random_source(seeds: range) -> tuple[str, str, dict[str, object]]:
    """The source with zeros, the same with values, and the values as data."""
    zero, full, values, reads = [HEAD], [HEAD], {}, []
    for seed in seeds:
        made = Made(seed)
        kind, data, text = made.struct(3)
        for source, init in ((zero, "{}"), (full, text)):
            source.extend(made.definitions)
            source.append(f'volatile {kind} v{seed} SECTION(".data") = {init};')
        values[f"v{seed}"] = data
        reads.append(f"sum += *(volatile char *)&v{seed};")
    program = f'SECTION("tc") int prog(void *ctx) {{ int sum = 0; {" ".join(reads)} return sum; }}'
    return "\n".join([*zero, program]), "\n".join([*full, program]), values


def flat(value, path: str):
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from flat(inner, f"{path}.{name}")
    elif isinstance(value, list):
        for n, inner in enumerate(value):
            yield from flat(inner, f"{path}[{n}]")
    else:
        yield f"{path}={str(value).lower() if isinstance(value, bool) else value}"


@pytest.mark.parametrize("target", ["bpfel", "bpfeb"])
def test_random_structs_are_laid_out_as_the_compiler_does(tmp_path, target):
    zero, full, values = random_source(range(60))
    template = opened(clang(tmp_path, "zero", zero, target))
    compiled = opened(clang(tmp_path, "full", full, target))
    by_json = make_image(template, [Setting(DATA, path, data, path, 0) for path, data in values.items()])
    by_text = make_image(template, [from_set(text) for path, data in values.items() for text in flat(data, path)])
    for row, variable in enumerate(compiled.index.rows(Variable)):
        place = resolve(compiled.index, variable.name)
        wanted = compiled.held(place)
        for image in (by_json, by_text):
            own = resolve(template.index, variable.name)
            assert own.size == place.size
            assert image.section_bytes(own.section)[own.offset : own.offset + own.size] == wanted, variable.name
        for leaf in leaves(compiled.index, row, open_arrays=True):  # and what it compiled is read as it was meant
            again = make_image(template, [from_set(f"{leaf.path}={show(compiled.index, leaf, compiled.raw(leaf))}")])
            assert again.raw(resolve(template.index, leaf.path)) == compiled.raw(leaf), leaf.path
    assert written(by_json) == written(by_text) and digest(by_json) == digest(by_text)
    again = make_image(template, [from_set("=".join(pair)) for pair in by_json.settings_text])
    assert again.sections == by_json.sections


SHAPES = (
    HEAD
    + """
#define TAG(text) __attribute__((btf_decl_tag("elfpatch:" text)))
struct in6_addr {
    union { unsigned char u6_addr8[16]; unsigned short u6_addr16[8]; unsigned int u6_addr32[4]; } in6_u;
};
struct lpm { __u32 prefixlen; unsigned char data[4]; };
struct ep {
    __be32 ip4 TAG("format=ipv4") TAG("required");
    struct in6_addr ip6;
    unsigned char mac[6] TAG("format=mac");
    __be16 port TAG("format=port") TAG("min=1");
    struct lpm net TAG("format=cidr");
    __u32 plain;
    char name[8];
    unsigned long long wait TAG("format=duration") TAG("unit=us");
    __u32 hops[2] TAG("format=ipv4");
};
volatile const struct ep ep SECTION(".rodata") = INIT;
static volatile int twin SECTION(".data") = 1;
volatile __int128 giant SECTION(".data") = GIANT;
SECTION("tc") int prog(void *ctx)
{
    static volatile int count SECTION(".data") = 3;
    return ep.port + twin + count + (int)giant;
}
"""
)


@pytest.mark.parametrize("target", ["bpfel", "bpfeb"])
def test_tagged_types_of_a_real_object(tmp_path, target):
    template = opened(clang(tmp_path, "zero", f"#define INIT {{}}\n#define GIANT 1\n{SHAPES}", target))
    init = (
        "{ .ip4 = IP4, .ip6.in6_u.u6_addr8 = { 0x20, 1, 0xd, 0xb8, [15] = 1 }, .mac = { 2, 0, 0, 0, 0, 9 }, "
        '.port = PORT, .net = { 8, { 10 } }, .plain = 7, .name = "eth0", .wait = 1500, .hops = { IP4, IP4 } }'
    )
    ip4, port = ("0x0500000a", "0xbb01") if target == "bpfel" else ("0x0a000005", "0x01bb")
    head = f"#define IP4 {ip4}\n#define PORT {port}\n#define INIT {init}\n#define GIANT -(((__int128)1) << 100)\n"
    compiled = opened(clang(tmp_path, "full", head + SHAPES, target))
    sets = ["ep.ip4=10.0.0.5", "ep.ip6=2001:db8::1", "ep.mac=02:00:00:00:00:09", "ep.port=443", "ep.net=10.0.0.0/8"]
    sets += ["ep.plain=7", "ep.name=eth0", "ep.wait=1500us", "ep.hops[0]=10.0.0.5", "ep.hops[1]=10.0.0.5"]
    assert make_image(template, []).unset_required() == ["ep.ip4"]
    image = make_image(template, [*map(from_set, sets), from_set(f"giant={-(1 << 100)}"), from_set("prog.count=3")])
    assert image.unset_required() == []
    for name in ("ep", "giant"):
        place = resolve(compiled.index, name)
        assert image.raw(resolve(template.index, name)) == compiled.raw(place), name
    ep = resolve(compiled.index, "ep")
    by_json = make_image(template, [from_set_json(f"ep={show(compiled.index, ep, compiled.raw(ep))}")])
    assert by_json.raw(resolve(template.index, "ep")) == compiled.raw(ep)
    assert json.loads(show(compiled.index, ep, compiled.raw(ep)))["ip6"] == "2001:db8::1"


def test_an_object_without_btf(tmp_path):
    assert CLANG
    source = 'volatile int foo = 1; __attribute__((section("tc"))) int prog(void *ctx) { return foo; }'
    path, out = tmp_path / "plain.c", tmp_path / "plain.o"
    path.write_text(source)
    subprocess.run([CLANG, "--target=bpf", "-O2", "-c", path, "-o", out], check=True, timeout=60)
    template = opened(out.read_bytes())
    image = make_image(template, [from_set("foo=u32:42")])
    assert image.raw(resolve(template.index, "foo")) == b"\x2a\0\0\0"
    assert image.settings_text == [("foo", "hex:2a000000")]
