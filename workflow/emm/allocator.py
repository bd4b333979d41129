"""How glibc's allocator should treat the memory of a training step, as environment variables of the process.

By default it returns every activation of a step to the system, which has to clear it for the next one.
"""

ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**31 - 1),
    "MALLOC_TOP_PAD_": str(2**26),
}
