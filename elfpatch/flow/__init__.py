"""The analyses of a program before it is loaded: control-flow graph, constants, liveness, layout. Pure functions.

    program    what the kernel is given, decoded: instructions and the records that count them
    effects    what one instruction reads and writes
    graph      basic blocks, their edges, functions
    lattice    what is known of a register
    arithmetic the operations on values that are known
    propagate  conditional constant propagation over the graph
    operands   registers with a known number become imms
    rewrite    what stands for an instruction whose values are known
    liveness   which results are used
    layout     putting what stays together again

`patch/specialise.py` is the optimiser made of them.
"""
