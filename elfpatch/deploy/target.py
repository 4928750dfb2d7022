"""The target grammar: where a program runs, as the user writes it. Pure text in, values out; no system call.

    xdp:IFACE[:drv|skb]       tcx:IFACE:ingress|egress       tc:IFACE:ingress|egress       cgroup:PATH:HOOK

and after it, separated by commas: `netns=NAME|PATH` (not for cgroup), `prog=NAME` (which program of the object),
`prio=N` and `handle=N` (tc), `via=link|netlink` (xdp; a link is the default). A cgroup's path may hold colons and
commas: the hook is what follows the last colon. Every mistake is a UsageError that names the grammar.
"""

from __future__ import annotations

from elfpatch.errors import UsageError
from elfpatch.kernel import abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

GRAMMAR = {
    "xdp": "xdp:IFACE[:drv|skb][,netns=NAME|PATH][,via=link|netlink][,prog=NAME]",
    "tcx": "tcx:IFACE:ingress|egress[,netns=NAME|PATH][,prog=NAME]",
    "tc": "tc:IFACE:ingress|egress[,netns=NAME|PATH][,prio=N][,handle=N][,prog=NAME]",
    "cgroup": "cgroup:PATH:HOOK[,prog=NAME]",
}

_OPTIONS = {
    "xdp": ("netns", "via", "prog"),
    "tcx": ("netns", "prog"),
    "tc": ("netns", "prio", "handle", "prog"),
    "cgroup": ("prog",),
}

# A clsact filter is found again by its priority and handle, so both always have a value.
DEFAULT_PRIO = 1
DEFAULT_HANDLE = 1
PRIO_MAX = 0xFFFF
HANDLE_MAX = 0xFFFFFFFF
IFACE_MAX = 15  # bytes of an interface's name

_SKB, _SOCK, _ADDR = abi.PROG_TYPE_CGROUP_SKB, abi.PROG_TYPE_CGROUP_SOCK, abi.PROG_TYPE_CGROUP_SOCK_ADDR
_SOCKOPT = abi.PROG_TYPE_CGROUP_SOCKOPT

# hook: program type, attach type (enum bpf_attach_type), section names of programs for it, best first
CGROUP_HOOKS: dict[str, tuple[int, int, tuple[str, ...]]] = {
    "ingress": (_SKB, 0, ("cgroup_skb/ingress", "cgroup/skb")),
    "egress": (_SKB, 1, ("cgroup_skb/egress", "cgroup/skb")),
    "sock_create": (_SOCK, 2, ("cgroup/sock_create", "cgroup/sock")),
    "sock_release": (_SOCK, 34, ("cgroup/sock_release",)),
    "post_bind4": (_SOCK, 12, ("cgroup/post_bind4",)),
    "post_bind6": (_SOCK, 13, ("cgroup/post_bind6",)),
    "bind4": (_ADDR, 8, ("cgroup/bind4",)),
    "bind6": (_ADDR, 9, ("cgroup/bind6",)),
    "connect4": (_ADDR, 10, ("cgroup/connect4",)),
    "connect6": (_ADDR, 11, ("cgroup/connect6",)),
    "connect_unix": (_ADDR, 49, ("cgroup/connect_unix",)),
    "sendmsg4": (_ADDR, 14, ("cgroup/sendmsg4",)),
    "sendmsg6": (_ADDR, 15, ("cgroup/sendmsg6",)),
    "sendmsg_unix": (_ADDR, 50, ("cgroup/sendmsg_unix",)),
    "recvmsg4": (_ADDR, 19, ("cgroup/recvmsg4",)),
    "recvmsg6": (_ADDR, 20, ("cgroup/recvmsg6",)),
    "recvmsg_unix": (_ADDR, 51, ("cgroup/recvmsg_unix",)),
    "getpeername4": (_ADDR, 29, ("cgroup/getpeername4",)),
    "getpeername6": (_ADDR, 30, ("cgroup/getpeername6",)),
    "getpeername_unix": (_ADDR, 52, ("cgroup/getpeername_unix",)),
    "getsockname4": (_ADDR, 31, ("cgroup/getsockname4",)),
    "getsockname6": (_ADDR, 32, ("cgroup/getsockname6",)),
    "getsockname_unix": (_ADDR, 53, ("cgroup/getsockname_unix",)),
    "sysctl": (abi.PROG_TYPE_CGROUP_SYSCTL, 18, ("cgroup/sysctl",)),
    "getsockopt": (_SOCKOPT, 21, ("cgroup/getsockopt",)),
    "setsockopt": (_SOCKOPT, 22, ("cgroup/setsockopt",)),
    "dev": (abi.PROG_TYPE_CGROUP_DEVICE, 6, ("cgroup/dev",)),
    "sockops": (abi.PROG_TYPE_SOCK_OPS, 3, ("sockops",)),
}
_HOOK_ALIASES = {"sock": "sock_create", "device": "dev", "sock_ops": "sockops"}

_NET_TYPES = {
    "xdp": (abi.PROG_TYPE_XDP, abi.ATTACH_XDP),
    "tc": (abi.PROG_TYPE_SCHED_CLS, 0),
    "tcx ingress": (abi.PROG_TYPE_SCHED_CLS, abi.ATTACH_TCX_INGRESS),
    "tcx egress": (abi.PROG_TYPE_SCHED_CLS, abi.ATTACH_TCX_EGRESS),
}


class Target:
    """Where a program runs.

    `kind` xdp, tcx, tc or cgroup; `iface` the interface ("" for cgroup) or `path` the cgroup ("" otherwise); `where`
    is ingress or egress (tcx, tc), the mode "", drv or skb (xdp), or the hook (cgroup); `netns` a name or path, "" for
    the caller's own; `prog` the program's name, "" when not said; `prio` and `handle` of tc, else 0; `via` link or
    netlink for xdp, else "".
    """

    __slots__ = ("handle", "iface", "kind", "netns", "path", "prio", "prog", "via", "where")

    def __init__(
        self,
        kind: str,
        iface: str,
        path: str,
        where: str,
        *,
        netns: str = "",
        prog: str = "",
        prio: int = 0,
        handle: int = 0,
        via: str = "",
    ) -> None:
        self.kind = kind
        self.iface = iface
        self.path = path
        self.where = where
        self.netns = netns
        self.prog = prog
        self.prio = prio
        self.handle = handle
        self.via = via

    def _base(self, *, full: bool) -> str:
        if self.kind == "cgroup":
            return f"cgroup:{self.path}:{self.where}"
        shown = self.where if full or self.kind != "xdp" else ""
        text = f"{self.kind}:{self.iface}:{shown}" if shown else f"{self.kind}:{self.iface}"
        if self.netns:
            text += f",netns={self.netns}"
        if self.kind == "tc" and (full is False or (self.prio, self.handle) != (DEFAULT_PRIO, DEFAULT_HANDLE)):
            text += f",prio={self.prio},handle={self.handle}"
        return text

    @property
    def text(self) -> str:
        """The target as a user would write it, defaults left out; `parse` gives back the same target."""
        text = self._base(full=True)
        if self.via == "netlink":
            text += ",via=netlink"
        return f"{text},prog={self.prog}" if self.prog else text

    @property
    def hook(self) -> str:
        """The place alone, without program, mode and mechanism: equal for targets that cannot both be had."""
        return self._base(full=False)

    @property
    def direction(self) -> str:
        """ingress or egress for tcx and tc, else ""."""
        return self.where if self.kind in {"tcx", "tc"} else ""

    @property
    def mode(self) -> str:
        """drv, skb or "" (the kernel chooses) for xdp, else ""."""
        return self.where if self.kind == "xdp" else ""

    @property
    def prog_type(self) -> int:
        """enum bpf_prog_type of programs for this target."""
        return self._types()[0]

    @property
    def attach_type(self) -> int:
        """enum bpf_attach_type, which is also the expected_attach_type to load with; 0 for tc."""
        return self._types()[1]

    def _types(self) -> tuple[int, int]:
        if self.kind == "cgroup":
            return CGROUP_HOOKS[self.where][:2]
        return _NET_TYPES[f"tcx {self.where}" if self.kind == "tcx" else self.kind]

    @property
    def sections(self) -> tuple[str, ...]:
        """Section names that mark a program as meant for this target, best first: a hint, not a rule."""
        if self.kind == "cgroup":
            return CGROUP_HOOKS[self.where][2]
        if self.kind == "xdp":
            return ("xdp", "xdp.frags", "prog")
        here = self.where
        return (f"{self.kind}/{here}", f"tcx/{here}", f"tc/{here}", "tc", "classifier", here, "prog")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Target) and self.text == other.text

    def __hash__(self) -> int:
        return hash(self.text)

    def __repr__(self) -> str:
        return f"Target({self.text!r})"


def parse(text: str) -> Target:
    """Read one target. Raises UsageError."""
    kind, colon, rest = text.partition(":")
    if kind not in GRAMMAR or not colon:
        raise UsageError(f"target {text!r} is of no known kind", hint=f"one of {'; '.join(GRAMMAR.values())}")
    return _parse_cgroup(text, rest) if kind == "cgroup" else _parse_net(text, kind, rest)


def parse_all(texts: Iterable[str]) -> list[Target]:
    """Read several targets, in order. Two for one place are a UsageError; all mistakes are reported together."""
    from elfpatch.errors import raise_all

    targets: dict[str, Target] = {}
    wrong: list[UsageError] = []
    for text in texts:
        try:
            target = parse(text)
        except UsageError as error:
            wrong.append(error)
            continue
        if target.hook in targets:
            other = targets[target.hook].text
            wrong.append(UsageError(f"targets {other!r} and {text!r} are the same place", hint="give it once"))
        else:
            targets[target.hook] = target
    raise_all(wrong)
    return list(targets.values())


def _wrong(text: str, kind: str, what: str) -> UsageError:
    return UsageError(f"target {text!r}: {what}", hint=f"the form is {GRAMMAR[kind]}")


def _parse_cgroup(text: str, rest: str) -> Target:
    path, colon, tail = rest.rpartition(":")
    if not colon or not path:
        raise _wrong(text, "cgroup", "a cgroup and a hook are needed")
    if "\0" in path or "\n" in path:
        raise _wrong(text, "cgroup", "no path can hold such a character")
    hook, *pieces = tail.split(",")
    name = _HOOK_ALIASES.get(hook, hook)
    if name not in CGROUP_HOOKS:
        raise _wrong(text, "cgroup", f"no cgroup hook {hook!r}; there are {', '.join(CGROUP_HOOKS)}")
    options = _options(text, "cgroup", pieces)
    return Target("cgroup", "", path, name, prog=options.get("prog", ""))


def _parse_net(text: str, kind: str, rest: str) -> Target:
    place, *pieces = rest.split(",")
    iface, *wheres = place.split(":")
    _check_iface(text, kind, iface)
    if len(wheres) > 1:
        raise _wrong(text, kind, "too many parts; an interface's name holds no colon")
    where = wheres[0] if wheres else ""
    if kind == "xdp":
        if wheres and where not in {"drv", "skb"}:
            raise _wrong(text, kind, f"no XDP mode {where!r}")
    elif where not in {"ingress", "egress"}:
        raise _wrong(text, kind, f"no direction {where!r}" if where else "a direction is needed: ingress or egress")
    options = _options(text, kind, pieces)
    via = ""
    if kind == "xdp":
        via = options.get("via", "link")
        if via not in {"link", "netlink"}:
            raise _wrong(text, kind, f"no way to attach {via!r}: link or netlink")
    return Target(
        kind,
        iface,
        "",
        where,
        netns=_netns(text, kind, options),
        prog=options.get("prog", ""),
        prio=_number(text, options, "prio", DEFAULT_PRIO, PRIO_MAX) if kind == "tc" else 0,
        handle=_number(text, options, "handle", DEFAULT_HANDLE, HANDLE_MAX) if kind == "tc" else 0,
        via=via,
    )


def _check_iface(text: str, kind: str, iface: str) -> None:
    """The kernel's rule (dev_valid_name) and no comma, which would begin an option."""
    if not iface:
        raise _wrong(text, kind, "an interface is needed")
    if len(iface.encode("utf-8", "surrogateescape")) > IFACE_MAX:
        raise _wrong(text, kind, f"{iface!r} is no interface's name: {IFACE_MAX} bytes at most")
    if iface in {".", ".."} or any(char in "/\0" or char.isspace() for char in iface):
        raise _wrong(text, kind, f"{iface!r} is no interface's name")


def _options(text: str, kind: str, pieces: list[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for piece in pieces:
        key, equals, value = piece.partition("=")
        if key not in _OPTIONS[kind]:
            known = ", ".join(f"{name}=" for name in _OPTIONS[kind])
            raise _wrong(text, kind, f"{kind} has no option {key!r}; there are {known}")
        if not equals or not value:
            raise _wrong(text, kind, f"option {key!r} needs a value")
        if key in options:
            raise _wrong(text, kind, f"option {key!r} is given twice")
        options[key] = value
    return options


def _netns(text: str, kind: str, options: dict[str, str]) -> str:
    """The namespace, /run/netns/NAME shortened to NAME. A path is absolute."""
    netns = options.get("netns", "")
    for folder in ("/run/netns/", "/var/run/netns/"):
        if netns.startswith(folder) and "/" not in netns[len(folder) :] and len(netns) > len(folder):
            netns = netns[len(folder) :]
    if netns in {".", ".."} or ("/" in netns and not netns.startswith("/")) or "\0" in netns or "\n" in netns:
        raise _wrong(text, kind, f"{netns!r} is no namespace: a name, or an absolute path")
    return netns


def _number(text: str, options: dict[str, str], key: str, default: int, most: int) -> int:
    given = options.get(key)
    if given is None:
        return default
    try:
        value = int(given, 16) if given[:2].lower() == "0x" else int(given, 10)
    except ValueError:
        value = 0
    # int() takes more than digits: "+1", "1_0", " 1". isalnum() leaves plain numbers.
    if not given.isalnum() or not given.isascii() or not 1 <= value <= most:
        raise _wrong(text, "tc", f"{key}={given} is no number from 1 to {most}")
    return value
