"""A program explained: its instructions, where values enter them, and what specialising makes of it. Pure functions.

    model      what is said of a program: the one thing that all forms of output are made from
    build      an image's program -> its model
    debuginfo  function names and source lines, out of BTF
    places     which variable, member or element lies at an address of a data section
    entries    where variables, keys and immediates enter
    reach      blocks, their edges, and which of them can run
    syntax     instructions as text: the verifier's, or capstone's where that is right
    listing    a line for each instruction, as text, dot and svg show it

    text, document (JSON), dot, svg (drawn by `layout`): the forms of output

An instruction and a block are *live*, *cold* or *removed*. Removed: not in the program that the kernel gets. Cold: in
it, and not reached with these values, as far as constants and keys decide the branches that lead there; the verifier,
which follows every path by itself, may know of more.
"""
