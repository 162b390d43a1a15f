"""What pyproject.toml cannot say: a wheel brings the workflow, whose files are at the top of the repository."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
sys.path.insert(0, str(ROOT / "scripts"))

from embedome.workflow.run_folder import IN_PACKAGE, list_workflow  # noqa: E402


class BuildWithWorkflow(build_py):
    """Copy the workflow's files into the package that is built; an editable install finds them where they are."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            for target, source in self.workflow_files().items():
                self.mkpath(str(Path(target).parent))
                self.copy_file(source, target)

    def workflow_files(self) -> dict[str, str]:
        """Return the path of each file in the repository, by its path in the build."""
        folder = Path(self.build_lib, "embedome", IN_PACKAGE)
        return {str(folder / path): path for path in list_workflow(ROOT)}

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), *([] if self.editable_mode else self.workflow_files())]

    def get_output_mapping(self) -> dict[str, str]:
        return {**super().get_output_mapping(), **({} if self.editable_mode else self.workflow_files())}

    def get_source_files(self) -> list[str]:
        """Return what a source distribution holds, too."""
        return [*super().get_source_files(), *self.workflow_files().values()]


setup(cmdclass={"build_py": BuildWithWorkflow})
