"""The metadata is in setup.cfg; this file builds the optional compiled kernels (plugins/).

The library needs a C++17 compiler and nothing else: no torch headers (plugins/torch_abi.h says why). Without a compiler
the installation goes on without it and the package runs on its PyTorch implementation.
"""

import os
import platform
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

PLUGINS = Path("plugins")
CPU, CUDA, TRAINING = PLUGINS / "cpu", PLUGINS / "cuda", PLUGINS / "training"
# Compiled by NVRTC when they are needed, so they travel inside the library as text.
EMBEDDED = [*sorted(CUDA.glob("*.cuh")), CUDA / "arguments.h", CUDA / "device.h"]
EMBEDDED += [PLUGINS / f"{name}.h" for name in ("geometry", "lattice", "paths", "sequence", "spline")]
COMMON_FLAGS = [
    "-std=c++17",
    "-O3",
    "-fvisibility=hidden",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-ffp-contract=fast",
    "-fPIC",
    "-g0",
]

# One source, compiled for each instruction set; the library picks at load what the processor has.
INSTRUCTION_SETS = {"generic": []}
if platform.machine() in ("x86_64", "AMD64"):
    INSTRUCTION_SETS["avx2"] = ["-mavx2", "-mfma"]
    INSTRUCTION_SETS["avx512"] = [
        "-mavx512f",
        "-mavx512dq",
        "-mavx512vl",
        "-mavx512bw",
        "-mfma",
        "-mprefer-vector-width=512",
    ]
# Fewer of them for a quicker build while the kernels are worked on: MACE_MD_INSTRUCTION_SETS=avx2
WANTED = os.environ.get("MACE_MD_INSTRUCTION_SETS", "").split(",")
INSTRUCTION_SETS = {
    name: flags for name, flags in INSTRUCTION_SETS.items() if name in ("generic", *WANTED) or WANTED == [""]
}


class BuildNative(build_ext):
    """Compiles plugins/ into mace_md/ops/_native.so, a plain shared library without a Python interface."""

    def get_ext_filename(self, fullname):
        return os.path.join(*fullname.split(".")) + ".so"

    def build_extension(self, ext):
        output = Path(self.get_ext_fullpath(ext.name))
        objects_dir = Path(self.build_temp) / "native"
        jobs = [(PLUGINS / "ops.cpp", [], "ops"), (PLUGINS / "torch_abi.cpp", [], "torch_abi")]
        jobs += [(CPU / f"{name}.cpp", [], name) for name in ("neighbors", "state")]
        jobs += [(path, [], f"cuda_{path.stem}") for path in sorted(CUDA.glob("*.cpp"))]
        jobs.append((TRAINING / "ops.cpp", [], "training_ops"))
        jobs.append((embed_sources(objects_dir), [f"-I{CUDA}"], "cuda_embedded"))
        for name, flags in INSTRUCTION_SETS.items():
            for real in ("float", "double"):
                defines = [f"-DMACE_MD_TARGET={name}_{real}", f"-DMACE_MD_REAL={real}"]
                jobs.append((CPU / "engine.cpp", [*flags, *defines], f"engine_{name}_{real}"))
                jobs.append((TRAINING / "kernels.cpp", [*flags, *defines], f"training_{name}_{real}"))
        defines = [f"-DMACE_MD_HAVE_{name.upper()}" for name in INSTRUCTION_SETS]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            objects = list(pool.map(lambda job: self.compile_one(*job, defines, objects_dir), jobs))
        self.compiler.link_shared_object(objects, str(output), libraries=["dl"], target_lang="c++")

    def compile_one(self, source, flags, name, defines, objects_dir):
        # Each object has a folder of its own: the compiler names objects after sources, and one is compiled often.
        folder = objects_dir / name
        target = folder / source.with_suffix(".o")
        headers = [*PLUGINS.glob("*.h"), *CPU.glob("*.h")]
        headers += TRAINING.glob("*.h") if name.startswith("training") or name == "ops" else []
        headers += CUDA.glob("*.*h") if name.startswith("cuda") or name == "ops" else []
        newest = max(path.stat().st_mtime for path in [source, Path("setup.py"), *headers])
        if target.exists() and target.stat().st_mtime > newest:
            return str(target)
        return self.compiler.compile(
            [str(source)], output_dir=str(folder), extra_postargs=[*COMMON_FLAGS, *flags, *defines]
        )[0]


def embed_sources(folder):
    """Writes the device sources as string literals; returns the file."""
    entries = [f'{{"{path.name}", R"MACEMD({path.read_text()})MACEMD"}},' for path in EMBEDDED]
    text = '#include "embedded.h"\n\nconst mace_md::cuda::EmbeddedFile mace_md::cuda::kEmbeddedFiles[] = {\n'
    text += "\n".join([*entries, "{nullptr, nullptr}};\n"])
    target = folder / "embedded.cpp"
    folder.mkdir(parents=True, exist_ok=True)
    if not target.exists() or target.read_text() != text:
        target.write_text(text)
    return target


setup(
    ext_modules=[Extension("mace_md.ops._native", sources=[], optional=True)],
    cmdclass={"build_ext": BuildNative},
    options={"bdist_wheel": {"py_limited_api": "cp311"}},
)
