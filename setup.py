"""The one thing pyproject.toml cannot say for good: the C extension, which is optional.

Without a compiler, or without Python's headers, the build goes on and the twins in Python serve.  pip shows
the compiler's complaint only with `-v`.  Which one serves, the daemon says when it starts (`framer`), and
`MOORING_CEXT=c python -c "import mooring.cext"` fails where it is not the one in C.
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
