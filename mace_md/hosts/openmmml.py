"""The plug-in for openmm-ml: `MLPotential("mace-md", modelPath=...)`, found through the entry point of this package.

openmm-ml loads this module while it is itself being imported, so this one imports nothing of openmm-ml.
"""

from typing import Any

from mace_md.errors import InputError


class MaceMDPotentialImplFactory:
    """Makes the implementation of the potential "mace-md" for openmm-ml."""

    def createImpl(self, name: str, modelPath: Any = None, head: str | None = None, **args: Any) -> Any:
        """modelPath: a model file, a name of `mace-md models list`, or a loaded model; head: among several."""
        if args:
            raise InputError(f"MLPotential('{name}') has no argument {', '.join(args)}; it has modelPath and head")
        if modelPath is None:
            raise InputError(f"MLPotential('{name}') needs modelPath: a model file or a name of `mace-md models list`")
        from mace_md.hosts.openmmml_potential import MaceMDPotentialImpl

        return MaceMDPotentialImpl(modelPath, head)
