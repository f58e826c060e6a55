"""The versions that `labnet.compile.native` was written for, and the undocumented parts of them that it uses."""

import tomllib
from pathlib import Path

import numba
import pytest
from llvmlite import binding
from numba.core import cgutils, compiler, compiler_machinery, cpu, fastmathpass, funcdesc, typed_passes, untyped_passes
from numba.core.codegen import JITCodeLibrary
from numba.core.registry import cpu_target

from labnet.kernels.machine_code.cache import numba_version

BOUND = "numba>=0.68,<0.69"
TO_LOOK_AT = """
- pipeline._Pipeline: which passes does DefaultPassBuilder of the new version list for nopython mode, and what does
  PassManager.run do between them that the lowering relies on?
- pipeline.Library: what do JITCodeLibrary._optimize_functions, ._optimize_final_module, ._finalize_final_module,
  ._linking_libraries and ._get_module_for_linking do, and is ._final_module still optimised as a whole?
- callee.Callee: how does types.Dispatcher type and lower a call, and what does insert_user_function expect?
- lowering: what does Lower in core/lowering.py do for loops, conditions, operators and calls, and what do
  compile_extra and NativeLowering do around it: subtarget, FunctionDescriptor, decode_arguments, return_value,
  get_return_value, call_external_function and fastmathpass.rewrite_module?
- numba_compiler.translate: compile_extra, the flags no_compile and noalias, fndesc and call_conv.call_function
- numba_compiler._few_registrations: what do load_additional_registries of both contexts register, and in which of
  _registries does _IntrinsicTemplate put an intrinsic?
- numba_compiler._typed: are pointers, float64 and int64 still passed as they are?
- entry and labnet.compile.intrinsics: cgutils.for_range, alloca_once, global_constant; numba.extending.intrinsic
- cache.numba_version: does numba/_version.py still name the version?
- loader: llvmlite's create_mcjit_compiler, ObjectFileRef and add_symbol
Then run `make fuzz`, and the benchmarks of compiled steps beside those of the version before."""
PRIVATE = [
    (typed_passes, "PreLowerStripPhis"),
    (compiler_machinery.PassManager, "run"),
    (untyped_passes, "ReconstructSSA"),
    (JITCodeLibrary, "_optimize_functions"),
    (JITCodeLibrary, "_optimize_final_module"),
    (JITCodeLibrary, "_finalize_final_module"),
    (JITCodeLibrary, "_get_module_for_linking"),
    (cpu_target.target_context, "_registries"),
    (cpu_target.target_context, "insert_user_function"),
    (cpu_target.typing_context, "_registries"),
    (cpu_target.typing_context, "resolve_function_type"),
    (cpu_target.target_context, "subtarget"),
    (cpu_target.target_context, "push_code_library"),
    (cpu_target.target_context, "call_external_function"),
    (cpu_target.typing_context, "unify_types"),
    (fastmathpass, "rewrite_module"),
    (funcdesc, "FunctionDescriptor"),
    (compiler, "compile_extra"),
    (compiler.Flags, "noalias"),
    (compiler.Flags, "no_compile"),
    (cpu.CPUTargetOptions, "parse_as_flags"),
    (cpu_target.target_context, "call_conv"),
    (cgutils, "for_range"),
    (cgutils, "global_constant"),
    (binding, "create_mcjit_compiler"),
    (binding, "add_symbol"),
]


def test_the_bound_on_numba_is_the_version_that_was_looked_at():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text())["project"]
    (found,) = (one for one in project["dependencies"] if one.startswith("numba"))
    assert found == BOUND, f"before the bound is raised, look at:{TO_LOOK_AT}"
    assert numba.version_info[:2] == (0, 68), f"Numba {numba.__version__} is outside of {BOUND}"


@pytest.mark.parametrize(("owner", "name"), PRIVATE, ids=[name for _, name in PRIVATE])
def test_what_is_used_of_numba_and_llvm_is_there(owner, name):
    assert hasattr(owner, name), TO_LOOK_AT


def test_the_version_is_read_without_an_import():
    assert numba.__version__.encode() in numba_version(), TO_LOOK_AT
