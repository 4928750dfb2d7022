"""Graphviz's language, read by a small reader of our own: statements, nested clusters, quoted strings."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from elfpatch.explain.document import document
from elfpatch.explain.dot import dot
from elfpatch.explain.listing import header
from tests.explain.support import FEW, OBJECTS, name_of, one, programs

TOKEN = re.compile(r'\s*(?:("(?:[^"\\]|\\.)*")|(->|[{}\[\];,=])|([A-Za-z_][A-Za-z_0-9]*|-?[0-9.]+))')


def tokens(text: str) -> list[str]:
    found, at = [], 0
    while text[at:].strip():
        match = TOKEN.match(text, at)
        assert match, f"not dot: {text[at : at + 60]!r}"
        found.append(match[1] or match[2] or match[3])
        at = match.end()
    return found


class Reader:
    """What is in a digraph. Fails on what the grammar does not allow."""

    def __init__(self, text: str) -> None:
        self.rest = list(reversed(tokens(text)))
        self.nodes: dict[str, dict[str, str]] = {}
        self.edges: list[tuple[str, str, dict[str, str]]] = []
        self.clusters: list[str] = []
        self.need("digraph")
        self.rest.pop()
        self.need("{")
        self.body()
        assert self.rest == []

    def need(self, token: str) -> None:
        assert self.rest.pop() == token

    def body(self) -> None:
        while (word := self.rest.pop()) != "}":
            if word == "subgraph":
                self.clusters.append(self.rest.pop())
                self.need("{")
                self.body()
                continue
            if self.rest[-1] == "=":
                self.rest.pop()
                assert self.rest.pop().startswith('"')
            elif self.rest[-1] == "->":
                self.rest.pop()
                self.edges.append((word, self.rest.pop(), self.attributes()))
            else:
                found = self.attributes()
                if word not in ("graph", "node", "edge"):
                    assert word not in self.nodes
                    self.nodes[word] = found
            self.need(";")

    def attributes(self) -> dict[str, str]:
        found = {}
        self.need("[")
        while True:
            key = self.rest.pop()
            self.need("=")
            found[key] = self.rest.pop()
            if (after := self.rest.pop()) == "]":
                return found
            assert after == ","


@pytest.mark.parametrize("path", FEW, ids=name_of)
def test_the_graph_is_the_documents(path: Path) -> None:
    made = [program for _, program in programs(path, specialize=True)]
    read = Reader(dot(path.name, made))
    expected: list[tuple[str, str, str]] = []
    for number, program in enumerate(made):
        data: Any = document(program)
        for block in data["blocks"]:
            expected += [
                (f"b{number}_{block['id']}", f"b{number}_{edge['block']}", edge["kind"]) for edge in block["successors"]
            ]
        for block in program.blocks:
            node = read.nodes[f"b{number}_{block.first}"]
            rows = node["label"].strip('"').split("\\l")
            assert rows[0] == header(block)
            assert rows[0].startswith(block.state)
            assert node["style"] == {"live": '"solid"', "cold": '"dashed"', "removed": '"dotted"'}[block.state]
            listed = [row for row in rows[1:] if not row.startswith(";")]
            assert len(listed) - 1 == len(program.insns_of(block))  # the last row is empty
    assert [(source, target, found["label"]) for source, target, found in read.edges] == expected
    assert len(read.nodes) == sum(len(program.blocks) or 1 for program in made)
    assert len(read.clusters) == len(set(read.clusters)) == sum(1 + len(program.functions) for program in made)


def test_quotes_and_backslashes_of_names_do_not_end_a_string() -> None:
    program = one(OBJECTS / "clang-19-v3" / "plain.o", "plain")
    program.insns[0].text = 'a "quoted" \\l \n{}'
    read = Reader(dot('x"; evil [y="', [program]))
    assert "(18) r1 = &mark" in read.nodes["b0_0"]["label"]
    assert r"a \"quoted\" \\l \\n{}" in read.nodes["b0_0"]["label"]
