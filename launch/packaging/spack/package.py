# SPDX-License-Identifier: Apache-2.0
# A recipe for Spack: spack repo create r; mkdir -p r/packages/banyan; cp package.py r/packages/banyan/;
# spack repo add r; spack install banyan
from spack.package import *


class Banyan(CMakePackage, CudaPackage):
    """Distributed attention over a key/value cache that is spread across many ranks: exact, with
    patterns per head (S2, sliding windows), for contexts of millions of tokens."""

    homepage = "https://github.com/banyan-attention/banyan"
    git = "https://github.com/banyan-attention/banyan.git"
    license("Apache-2.0")

    version("main", branch="main")

    variant("mpi", default=True, description="ranks over MPI")
    variant("programs", default=True, description="the program banyan")
    variant("nccl", default=True, when="+cuda+mpi", description="messages between GPUs by NCCL")

    depends_on("c", type="build")
    depends_on("cxx", type="build", when="+programs")
    depends_on("cmake@3.25:", type="build")
    depends_on("mpi", when="+mpi")
    depends_on("cuda@12.5:", when="+cuda")
    depends_on("nccl", when="+nccl")
    depends_on("xxhash", type="build")  # snapshots; its header is all
    with when("+programs"):
        depends_on("pkgconfig", type="build")
        depends_on("protobuf")
        depends_on("protobuf-c")
        depends_on("openblas threads=openmp")
        depends_on("jansson")
        depends_on("gnuplot", type="run")

    def cmake_args(self):
        on = lambda variant: "ON" if self.spec.satisfies(f"+{variant}") else "OFF"  # noqa: E731
        return [
            self.define("BUILD_SHARED_LIBS", True),
            self.define("BUILD_TESTING", self.run_tests),
            self.define("BANYAN_MPI", on("mpi")),
            self.define("BANYAN_PROGRAMS", on("programs")),
            self.define("BANYAN_CUDA", on("cuda")),
            self.define("BANYAN_NCCL", on("nccl")),
        ]
