"""elfpatch: eBPF objects as templates, reconfigured without a compiler."""
