"""Random small eBPF programs, valid by construction, and what runs them: for the property test of specialisation.

A program is a tree: functions hold a `Seq` of instructions, labels and further `Seq`s, one per statement. The tree is
what makes shrinking simple, for a `Seq` can be left out with all that is in it. `assemble` flattens it for the kernel.

Registers: r6 is the context (in functions that are given one), r7 r8 r9 always hold numbers and survive calls; r0 to r5
hold numbers or the pointer of one statement. A `Scope` says which registers and stack slots may be read. It also
follows the values that are known when the program is made, so that branches can be put right beside them, where a wrong
sign, width or comparison shows. Before it ends, a program stores r7 r8 r9, so what a statement did to them is seen.
"""
