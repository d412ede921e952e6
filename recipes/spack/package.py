# Not run by the developers (recipes/README.md).
from spack.package import *


class PyPrdpHpc(PythonPackage):
    """Train neural networks through distributed PETSc solvers that are only as accurate as training
    needs.
    """

    license("MIT", checked_by="prdp-hpc developers")

    # From a clone: `spack develop --path /path/to/clone py-prdp-hpc@main`.
    version("main", branch="main")

    variant("cuda", default=False, description="PETSc and torch on NVIDIA GPUs")

    depends_on("python@3.11:", type=("build", "run"))
    depends_on("py-setuptools@77:", type="build")
    depends_on("mpi", type=("build", "link", "run"))
    depends_on("petsc@3.23.5: ~complex+mpi+double", type=("build", "link", "run"))
    depends_on("petsc+cuda", when="+cuda")
    depends_on("py-petsc4py@3.23.5:", type="run")
    depends_on("py-mpi4py@3.1.4:", type="run")
    depends_on("py-h5py@3.8:", type="run")
    depends_on("py-matplotlib@3.7:", type="run")
    depends_on("py-numpy@1.24:", type="run")
    depends_on("py-pydantic@2.9:", type="run")
    depends_on("py-pyyaml@6:", type="run")
    depends_on("py-rich@14.1:", type="run")
    depends_on("py-shtab@1.7:", type="run")
    depends_on("py-tensorboard@2.12:", type="run")
    depends_on("py-torch@2.4: ~cuda", when="~cuda", type="run")
    depends_on("py-torch@2.4: +cuda", when="+cuda", type="run")
