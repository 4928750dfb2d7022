"""The printer of instructions against llvm-objdump, the kernel and capstone."""
