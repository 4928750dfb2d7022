"""The run-time wing: values in, patched bytes out. Pure: no system calls, nothing of the kernel, no ELF reader."""
