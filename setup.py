"""The one thing pyproject.toml cannot say for good: the C extension, which is optional.

Without a compiler, or without Python's headers, the build warns and goes on, and the twin in Python serves.
"""

from setuptools import Extension, setup

ROOM = "src/mooring/cext"

setup(
    ext_modules=[
        Extension(
            "mooring.cext._native",
            sources=[f"{ROOM}/{name}.c" for name in ("_native", "_framer", "_splitter", "sse", "array")],
            depends=[f"{ROOM}/{name}.h" for name in ("_native", "sse", "array", "buffer")],
            extra_compile_args=[
                "-std=c11",
                "-O2",
                "-fno-strict-aliasing",
                "-fvisibility=hidden",
                "-Wall",
                "-Wextra",
                "-Werror=implicit-function-declaration",
            ],
            optional=True,
        )
    ]
)
