"""elfpatch: eBPF objects as templates, reconfigured without a compiler."""

__version__ = "0.1.0"
