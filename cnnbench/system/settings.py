"""Pins and records settings of JAX, Flax and XLA for reproducible numbers.

Every option that affects numerical results has a fixed value while cnnbench computes,
independent of the environment and the calling program. Settings that cannot be pinned are
recorded, to detect runs that were trained under different settings.
"""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any

from cnnbench.errors import UsageError

SettingValue = bool | int | float | str | None

# Options that affect numerical results. The values are the defaults of JAX 0.10 to 0.12 and Flax
# 0.12; options that the installed version does not have are skipped.
NUMERIC_OPTIONS: Mapping[str, SettingValue] = MappingProxyType(
    {
        # types and promotion
        "jax_enable_x64": False,
        "jax_explicit_x64_dtypes": "warn",
        "jax_numpy_dtype_promotion": "standard",
        "jax_numpy_rank_promotion": "allow",
        "jax_allow_f16_reductions": True,
        # random numbers
        "jax_default_prng_impl": "threefry2x32",
        "jax_threefry_partitionable": True,
        "jax_threefry_gpu_kernel_lowering": False,
        "jax_enable_custom_prng": False,
        "jax_random_seed_offset": 0,
        "jax_high_dynamic_range_gumbel": False,
        # arithmetic
        "jax_default_matmul_precision": None,
        "jax_accurate_erf_inv": False,
        "jax_softmax_custom_jvp": False,
        "jax_use_hlo_logistic_lowering": None,
        "jax_use_magma": "auto",
        # automatic differentiation
        "jax_use_direct_linearize": True,
        "jax_custom_jvp3": False,
        "jax_custom_vjp3": False,
        "jax_disable_bwd_checks": False,
        "jax_remat3": False,
        "jax_remat_barrier_no_cotangents": False,
        "jax_scan3": False,
        # compilation
        "eager_constant_folding": False,
        "jax_compiler_enable_remat_pass": True,
        "jax_disable_most_optimizations": False,
        "jax_embedded_constants_max_bytes": 32,
        "jax_exec_time_optimization_effort": 0.0,
        "jax_memory_fitting_effort": 0.0,
        "jax_memory_fitting_level": "O2",
        "jax_optimization_level": "UNKNOWN",
        "jax_use_shardy_partitioner": True,
        "jax_use_simplified_jaxpr_constants": False,
        "jax_xla_profile_version": 0,
        # Flax
        "flax_array_ref": False,
        "flax_fix_rng_separator": False,
        "flax_hijax_variable": False,
        "nnx_graph_mode": True,
        "nnx_graph_updates": True,
    }
)

# Options that do not affect numerical results, but slow down or abort training for debugging.
DEBUG_OPTIONS: Mapping[str, SettingValue] = MappingProxyType(
    {
        "check_vma": False,
        "flax_always_shard_variable": True,
        "flax_pytree_module": True,
        "flax_return_frozendict": False,
        "jax_array_garbage_collection_guard": None,
        "jax_auto_pcast": True,
        "jax_check_static_indices": False,
        "jax_check_tracer_leaks": False,
        "jax_compilation_cache_expect_pgle": False,
        "jax_debug_infs": False,
        "jax_debug_key_reuse": False,
        "jax_debug_nans": False,
        "jax_default_device": None,
        "jax_disable_jit": False,
        "jax_disable_vmap_shmap_error": False,
        "jax_disallow_mesh_context_manager": False,
        "jax_enable_checks": False,
        "jax_enable_pgle": False,
        "jax_error_checking_behavior_divide": "ignore",
        "jax_error_checking_behavior_nan": "ignore",
        "jax_error_checking_behavior_oob": "ignore",
        "jax_experimental_unsafe_xla_runtime_errors": False,
        "jax_legacy_prng_key": "allow",
        "jax_mutable_array_checks": True,
        "jax_no_execution": False,
        "jax_no_tracing": False,
        "jax_raise_on_ppermute_sort_diff": True,
        "jax_raise_persistent_cache_errors": False,
        "jax_refs_to_pins": False,
        "jax_remove_size_one_mesh_axis_from_type": False,
        "jax_thread_guard": False,
        # The first one sets the other three, so it comes first.
        "jax_transfer_guard": None,
        "jax_transfer_guard_device_to_device": None,
        "jax_transfer_guard_device_to_host": None,
        "jax_transfer_guard_host_to_device": None,
        "jax_use_cpp_shard_args": False,
        "jax_use_rgv3": True,
    }
)

# Options that select devices; handled by `devices`, and runs record their devices.
DEVICE_OPTIONS = frozenset(
    {
        "jax_backend_target",
        "jax_cuda_visible_devices",
        "jax_mock_gpu_topology",
        "jax_num_cpu_devices",
        "jax_oneapi_visible_devices",
        "jax_platform_name",
        "jax_platforms",
        "jax_rocm_visible_devices",
        "jax_xla_backend",
        "mock_num_gpu_processes",
    }
)

# Options left to the user: logs, tracebacks, dumps, the cache, and unused features.
_USER_OPTIONS = """
flax_filter_frames flax_max_repr_depth flax_preserve_adopted_names flax_profile
flax_use_flaxlib flax_use_orbax_checkpointing nnx_sow_capture_noop
jax2tf_associative_scan_reductions jax2tf_default_native_serialization
jax_bcoo_cusparse_lowering jax_captured_constants_report_frames
jax_captured_constants_warn_bytes jax_check_proxy_envs jax_compilation_cache_check_contents
jax_compilation_cache_dir jax_compilation_cache_include_metadata_in_key
jax_compilation_cache_max_size jax_compiler_detailed_logging_min_ops
jax_coordinator_address jax_coordinator_port jax_cpu_enable_async_dispatch
jax_cpu_get_global_topology_timeout_minutes jax_cpu_get_local_topology_timeout_minutes
jax_cross_host_transfer_socket_address jax_cross_host_transfer_timeout_seconds
jax_cross_host_transfer_transfer_size jax_cross_host_transport_addresses
jax_debug_leaked_clients_on_clear_backends jax_debug_log_modules jax_distributed_debug
jax_distributed_verify_secure_credentials jax_dump_ir_modes jax_dump_ir_to
jax_enable_compilation_cache jax_enable_preemption_service jax_enable_recoverability
jax_explain_cache_misses jax_export_calling_convention_version
jax_export_deserialize_expired_versions jax_export_ignore_forward_compatibility
jax_force_dcn_cross_host_transfers jax_hlo_source_file_canonicalization_regex
jax_include_debug_info_in_dumps jax_include_full_tracebacks_in_locations
jax_log_checkpoint_residuals jax_log_compiles jax_logging_level jax_mosaic_allow_hlo
jax_mosaic_unzip_debug_locations jax_mtls_ca_file jax_mtls_cert_file jax_mtls_key_file
jax_mtls_peer_uri_prefix jax_pallas_auto_assign_collective_ids
jax_pallas_auto_assign_collective_ids_limit jax_pallas_enable_debug_checks
jax_pallas_poison_buffers jax_pallas_use_mosaic_gpu jax_pallas_verbose_errors
jax_persistent_cache_enable_xla_caches jax_persistent_cache_min_compile_time_secs
jax_persistent_cache_min_entry_size_bytes jax_pgle_aggregation_percentile
jax_pgle_profiling_runs jax_pprint_use_color jax_ragged_dot_use_gpu_pallas_triton_lowering
jax_ragged_dot_use_ragged_dot_instruction jax_remove_custom_partitioning_ptr_from_cache_key
jax_send_traceback_to_runtime jax_serialization_version jax_share_binary_between_hosts
jax_share_binary_between_hosts_timeout_ms jax_sort_devices_by_process_index
jax_source_url_schema jax_traceback_filtering jax_traceback_in_locations_limit
jax_tracer_error_num_traceback_frames jax_use_emit_pipeline_primitive
"""
USER_OPTIONS = frozenset(_USER_OPTIONS.split())

# Options and variables that may affect numerical results but cannot be pinned, mostly because XLA
# and its libraries read them at startup.
RECORDED = frozenset(
    {
        "CUBLAS_WORKSPACE_CONFIG",
        "DNNL_MAX_CPU_ISA",
        "JAX_CPU_COLLECTIVES_IMPLEMENTATION",
        "JAX_PJRT_CLIENT_CREATE_OPTIONS",
        "LIBTPU_INIT_ARGS",
        "NPROC",
        "NVIDIA_TF32_OVERRIDE",
        "ONEDNN_MAX_CPU_ISA",
        "PJRT_NPROC",
        "XLA_FLAGS",
    }
)

PINNED: Mapping[str, SettingValue] = MappingProxyType({**NUMERIC_OPTIONS, **DEBUG_OPTIONS})
VARIABLES = frozenset(name.upper() for name in PINNED)
# Other options that cnnbench changes: for the compilation cache, and for `--device cpu`.
_CHANGED = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
    "jax_platform_name",
    "jax_platforms",
)
_FAMILIES = ("JAX_", "FLAX_", "NNX_")
# Variables that number processes that train together; runs record how many there are.
_OF_PROCESSES = (
    "jax_coordinator_bind_address",
    "jax_local_device_ids",
    "jax_num_processes",
    "jax_process_id",
)
_CLASSIFIED = frozenset(
    name.upper() for name in (*PINNED, *DEVICE_OPTIONS, *USER_OPTIONS, *_OF_PROCESSES)
)
# XLA flags for dumps and the number of CPU devices, which runs record anyway.
_HARMLESS = ("--xla_dump_", "--xla_force_host_platform_device_count")
_TRY = "from jaxlib import xla_client; xla_client.CompileOptions()"  # only parses XLA_FLAGS
_tried: set[str] = set()
_lock = Lock()
_blocks: list[dict[str, Any]] = []  # active `pinned` blocks; the first has the options to restore


def start(notify: Callable[[str], None]) -> None:
    """Imports JAX and Flax, which read their settings then, and reports ignored settings.

    Args:
      notify: receives a message if there are any.

    Raises:
      UsageError: JAX, Flax or XLA rejects the value of an environment variable.
    """
    require_flags(os.environ.get("XLA_FLAGS", ""))
    try:
        values = _values()
    except (ValueError, TypeError, KeyError) as error:  # raised by invalid variables
        if (refusal := _refusal(str(error), os.environ)) is None:
            raise
        raise UsageError(refusal) from None
    _require_folder("jax_dump_ir_to")
    others = _others(values)
    if "jax_transfer_guard" in others:  # sets the other three
        others = {n: v for n, v in others.items() if not n.startswith("jax_transfer_guard_")}
    others = {n: v for n, v in others.items() if not _own_device(n) or isinstance(v, str)}
    if ignored := [
        env_setting(name) or f"{name}={_shown(value)}" for name, value in others.items()
    ]:
        notify(
            f"ignoring {', '.join(ignored)}: cnnbench pins these settings, so that the same seed"
            " gives the same numbers."
        )


@contextmanager
def pinned() -> Iterator[None]:
    """Sets the options in `PINNED` while its body runs, and restores them afterwards.

    Also restores the other JAX options that cnnbench changes. Options are global to all threads,
    so the last of several overlapping blocks restores them.

    Raises:
      UsageError: a ``with`` block of the calling program sets another value.
    """
    with _lock:
        _blocks.append({} if _blocks else _everywhere())
    try:
        with _lock:
            for name, value in _others(_values()).items():
                _config(name).update(name, _like(PINNED[name], value))
        for name, value in _others(_values()).items():
            if _own_device(name):
                continue
            message = f"{name} is {_shown(value)} in a `with` block of the calling program"
            raise UsageError(f"{message}; call cnnbench outside of that block.")
        yield
    finally:
        with _lock:
            before = _blocks.pop()
            if not _blocks:
                _restore(before)


def _everywhere() -> dict[str, Any]:
    """Global options to restore, without `with` blocks of the current thread."""
    with ThreadPoolExecutor(1) as other:
        return other.submit(_restored).result()


def _restored() -> dict[str, Any]:
    import jax

    return _values() | {name: jax.config.values[name] for name in _CHANGED}


def _restore(before: Mapping[str, Any]) -> None:
    now = _everywhere()
    for name, value in before.items():
        if now[name] != value:
            _config(name).update(name, value)


def require_pinned(where: str) -> None:
    """Checks that user code has not changed a pinned option.

    Args:
      where: the code, for the message.

    Raises:
      UsageError: a pinned option has another value.
    """
    for name, value in _others(_values()).items():
        if _own_device(name):
            continue
        message = f"{where}: sets {name} to {_shown(value)}, but cnnbench pins it to"
        raise UsageError(f"{message} {_text(PINNED[name])}; do not change this option.")


def current(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """Settings that affect numerical results: pinned options, and environment variables.

    Args:
      environ: environment variables; None for those of this process.

    >>> found = current({"XLA_FLAGS": "--xla_dump_to=x --xla_allow_excess_precision=false"})
    >>> found["jax_enable_x64"], found["XLA_FLAGS"]
    ('false', '--xla_allow_excess_precision=false')
    """
    environ = os.environ if environ is None else environ
    own = {name: value for name, value in environ.items() if name in RECORDED or _unknown(name)}
    own["XLA_FLAGS"] = _effective(environ.get("XLA_FLAGS", ""))
    pins = {name: _text(value) for name, value in NUMERIC_OPTIONS.items()}
    return pins | {name: own[name] for name in sorted(own) if own[name]}


@dataclass(frozen=True, slots=True)
class Change:
    """A changed setting.

    Args:
      name: name of the option or variable.
      then: recorded value; None if it was not set.
      now: current value; None if it is not set.
    """

    name: str
    then: str | None
    now: str | None

    @property
    def text(self) -> str:
        """Both values, to follow a verb.

        >>> Change("NPROC", "1", None).text
        'with NPROC=1, which is not set now'
        """
        then, now = (v and f"{self.name}={shlex.quote(v)}" for v in (self.then, self.now))
        if not then:
            return f"without {self.name}, and {now} is set now"
        return f"with {then}, which is {f'now {self.now}' if now else 'not set now'}"

    @property
    def remedy(self) -> str:
        """Instruction to restore the recorded value."""
        if not self.name.isupper():
            return "resume it with the version of cnnbench that started it"
        if self.then is None:
            return f"unset {self.name}"
        return f"set {self.name}={shlex.quote(self.then)}"


def changed_settings(then: Mapping[str, str], now: Mapping[str, str]) -> list[Change]:
    """Settings with different values.

    Options pinned by only one of two cnnbench versions are not compared: the other JAX version may
    not have them.

    >>> [change.text for change in changed_settings({"jax_scan3": "false"}, {"XLA_FLAGS": "--a"})]
    ['without XLA_FLAGS, and XLA_FLAGS=--a is set now']
    """
    names = [n for n in sorted({*then, *now}) if n.isupper() or (n in then and n in now)]
    found = [Change(name, then.get(name), now.get(name)) for name in names]
    return [change for change in found if change.then != change.now]


def affects_numbers(name: str) -> bool:
    """Returns True if a recorded setting may affect numerical results.

    Variables named like JAX or Flax options have no effect if the installed versions do not have
    the option. Imports JAX and Flax if necessary.

    Raises:
      UsageError: as `start`.
    """
    if not _unknown(name):
        return True
    start(lambda _: None)
    import flax
    import jax

    return name.lower() in jax.config.values or hasattr(flax.config, name.lower())


def require_flags(flags: str) -> None:
    """Validates XLA flags in a subprocess, because XLA aborts on unknown flags.

    Raises:
      UsageError: unknown flag or invalid value.
    """
    if not flags.strip() or flags in _tried:
        return
    command = [sys.executable, "-c", _TRY]
    environ = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        said = re.findall(r"\] (.*(?:XLA_FLAGS|flag xla).*)", done.stderr)
        reason = f" ({said[0].strip().rstrip('.')})" if said else ""
        message = f"XLA_FLAGS={shlex.quote(flags)}: XLA rejects these flags{reason}"
        raise UsageError(f"{message}; fix or unset XLA_FLAGS.")
    _tried.add(flags)


DEVICE_CHOICES = ("jax_platforms", "jax_platform_name", "jax_force_tpu_init")


def env_setting(name: str, environ: Mapping[str, str] | None = None) -> str:
    """Environment variable that sets an option, with its value; empty if not set.

    >>> env_setting("jax_platforms", {"JAX_PLATFORMS": "cuda"})
    'JAX_PLATFORMS=cuda'
    """
    value = (os.environ if environ is None else environ).get(name.upper())
    return f"{name.upper()}={shlex.quote(value)}" if value else ""


def _require_folder(name: str) -> None:
    """Creates the folder of an option early, before JAX writes to it during training."""
    import jax

    folder = jax.config.values.get(name)
    if not folder or "://" in folder:  # as in gs://bucket
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        message = f"{env_setting(name) or f'{name}={folder}'}: cannot create this folder"
        raise UsageError(f"{message} ({error.strerror}); choose another, or unset it.") from None


def _refusal(said: str, environ: Mapping[str, str]) -> str | None:
    """Message for the environment variable that makes an import fail; None if unknown."""
    own = sorted((n for n in environ if n.startswith(_FAMILIES)), key=len, reverse=True)
    named = [name for name in own if name in said.upper()]
    blamed = named or [name for name in own if repr(environ[name]) in said]
    if not blamed:
        return None
    message = f"{env_setting(blamed[0], environ)}: invalid value ({said.rstrip('.')})"
    return f"{message}; unset {blamed[0]}."


def _config(name: str) -> Any:
    import flax
    import jax

    return jax.config if name in jax.config.values else flax.config


def _values() -> dict[str, Any]:
    """Current values of the pinned options that the installed versions have."""
    import flax
    import jax

    found = {name: getattr(flax.config, name) for name in PINNED if hasattr(flax.config, name)}
    found |= jax.config.values
    return {name: found[name] for name in PINNED if name in found}


def _others(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options that differ from their pinned value."""
    return {name: value for name, value in values.items() if _plain(value) != PINNED[name]}


def _own_device(name: str) -> bool:
    """Returns True if an option may differ in a `with` block: the engine sets its device in one."""
    return name == "jax_default_device"


def _plain(value: Any) -> SettingValue:
    """Value of an option; enum members by name."""
    return value.name.lower() if isinstance(value, Enum) else value


def _shown(value: Any) -> str:
    """Value of an option as text."""
    return _text(_plain(value))


def _like(value: SettingValue, other: Any) -> Any:
    """Converts a value to the type of an option."""
    return type(other)[str(value).upper()] if isinstance(other, Enum) else value


def _text(value: SettingValue) -> str:
    words = {True: "true", False: "false", None: "null"}
    return words[value] if value is None or isinstance(value, bool) else str(value)


def _unknown(name: str) -> bool:
    """Returns True if a variable is named like an unknown option, perhaps of a newer version."""
    return name.startswith(_FAMILIES) and name not in _CLASSIFIED


def _effective(flags: str) -> str:
    """XLA flags that may affect numerical results; read from a file if it names one, as in XLA."""
    text = flags.strip()
    if text and not text.startswith("-"):
        try:
            text = Path(text).read_text(encoding="utf-8", errors="replace")
        except OSError:  # XLA ignores it, too
            return ""
    return " ".join(flag for flag in text.split() if not flag.startswith(_HARMLESS))
