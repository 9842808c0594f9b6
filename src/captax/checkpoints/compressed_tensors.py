"""Matrices in 8 and 4 bits on disk, in the form of https://github.com/vllm-project/compressed-tensors.

transformers and vLLM read this form too. `quantization_config` in a config describes it. A matrix
`X` is kept as `X_packed` (codes in 32-bit words, the first in the lowest bits, each plus half its
range) with `X_shape`, or as `X` itself (a code in a byte, or a number in 8 bits). `X_scale` has a
scale for each group of a row's values, for each row, or for the whole matrix; `X_zero_point`, in
asymmetric forms, the code that stands for 0; and `X_g_idx`, in old files, the group of each column.

What a tensor is shows in the tensors themselves, so the config's targets, which may be regular
expressions of strangers, are not followed.
"""

import dataclasses
import functools
import math
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from jaxtyping import Float, Int

from captax.checkpoints.lazy import FLOAT8, LazyCodes, LazyTensor
from captax.errors import CheckpointError, quoted
from captax.models.quantised import packed, unpacked

METHOD = "compressed-tensors"
FORM = "quantization_config"
_PACKED = "pack-quantized"
_FORMATS = (_PACKED, "int-quantized", "float-quantized", "naive-quantized")
# Of what a whole model says; its groups then name theirs.
_MIXED = "mixed-precision"
# What says how activations and caches are to be rounded. captax keeps them as they are.
_OF_ACTIVATIONS = re.compile(r"(.*\.)?(input|output|q|k|v)_(scale|zero_point)")
_WORD = 32  # bits
_BITS = (8, 4)
# Names of heads that are not in files, because they are tied to tables of words.
_TIED = ("lm_head", "predictions.decoder")
_ADVICE = f"give the checkpoint with weights that are not quantised, or one in {METHOD}'s int form"


def form_of(contents: Mapping[str, Any]) -> Any:
    """What a config says of narrow weights; None if there are none."""
    return contents.get(FORM, contents.get("compression_config"))


def widened_or_kept(
    contents: Mapping[str, Any], tensors: Mapping[str, LazyTensor], where: Path
) -> dict[str, LazyTensor]:
    """The tensors of a checkpoint by the names and shapes that its family gives them.

    Those that are kept narrow are read as the numbers that they stand for, and have `codes` if
    these can be kept as they are. `contents` are those of the config at `where`. Raises
    `CheckpointError` for other forms of narrow weights.
    """
    form = form_of(contents)
    if form is None:
        return dict(tensors)
    _check(form, where)
    groups = [group["weights"] for group in form["config_groups"].values() if group.get("weights")]
    found: dict[str, LazyTensor] = {}
    used: set[str] = set()
    for name in tensors:
        stem = name.removesuffix("_packed")
        if f"{stem}_scale" not in tensors:
            continue
        parts = {
            part: tensors[f"{stem}_{part}"]
            for part in ("packed", "scale", "shape", "zero_point", "g_idx")
            if f"{stem}_{part}" in tensors
        }
        if stem in tensors:
            parts["codes"] = tensors[stem]
        used |= {stem, *(f"{stem}_{part}" for part in parts)}
        found[stem] = _Matrix.of(stem, parts, groups, where).lazy()
    rest = {
        name: tensor
        for name, tensor in tensors.items()
        if name not in used and not _OF_ACTIVATIONS.fullmatch(name)
    }
    return {**rest, **found}


def _check(form: Any, where: Path) -> None:
    """Raise `CheckpointError` unless a config describes a form that is read."""
    if not isinstance(form, Mapping):
        raise CheckpointError(f"{where}: {FORM} is not an object; download it again")
    method = form.get("quant_method")
    if method != METHOD:
        raise CheckpointError(
            f"{where}: weights in the form {quoted(method)} are not supported; {_ADVICE}"
        )
    groups = form.get("config_groups")
    if not isinstance(groups, Mapping) or not all(map(_is_group, groups.values())):
        raise CheckpointError(
            f"{where}: config_groups of {FORM} does not describe the weights; give a checkpoint "
            "that llm-compressor or captax saved"
        )
    whole = form.get("format")
    if not isinstance(whole, str | None):
        raise CheckpointError(
            f"{where}: the format of {FORM} is {quoted(whole)}, not a name; download it again"
        )
    formats = {group.get("format") or whole for group in groups.values()}
    if whole != _MIXED:
        formats.add(whole)
    for name in sorted(map(str, formats - set(_FORMATS))):
        raise CheckpointError(
            f"{where}: weights in the format {quoted(name)} are not supported; {_ADVICE}"
        )
    sparse = form.get("sparsity_config")
    if sparse and (not isinstance(sparse, Mapping) or sparse.get("format") not in (None, "dense")):
        raise CheckpointError(f"{where}: sparse weights are not supported; {_ADVICE}")
    if form.get("transform_config"):
        raise CheckpointError(
            f"{where}: its weights are rotated (transform_config), which is not supported; "
            f"{_ADVICE}"
        )


def _is_group(value: Any) -> bool:
    """Whether a value, read from a config, says how some modules are kept."""
    if not isinstance(value, Mapping) or not isinstance(value.get("format"), str | None):
        return False
    weights = value.get("weights")
    return weights is None or (
        isinstance(weights, Mapping) and isinstance(weights.get("num_bits"), int | None)
    )


@dataclasses.dataclass(frozen=True)
class _Matrix:
    """A matrix on disk: `stored` are its codes, `bits` wide if they are packed.

    `scales` has one for each group of each row. `zeros` are the codes for 0, and `groups` those of
    the columns if they are not in order. `name` is for errors, with the place that was read.
    """

    name: str
    shape: tuple[int, int]
    stored: LazyTensor
    bits: int | None
    scales: LazyTensor
    zeros: Int[np.ndarray, "rows groups"] | None
    groups: Int[np.ndarray, " columns"] | None

    @classmethod
    def of(
        cls,
        name: str,
        parts: Mapping[str, LazyTensor],
        described: Iterable[Mapping[str, Any]],
        where: Path,
    ) -> "_Matrix":
        """The matrix of some tensors. Raises `CheckpointError` if they do not fit each other."""

        def refuse(what: str, then: str = "download it again") -> NoReturn:
            raise CheckpointError(f"{where.parent}: {quoted(name)} {what}; {then}")

        stored, scales = parts.get("packed", parts.get("codes")), parts["scale"]
        assert stored is not None
        if {"packed", "codes"} <= parts.keys():
            refuse("is there twice, packed and not")
        if len(stored.shape) != 2:
            refuse(f"is kept narrow in {len(stored.shape)} axes, and captax reads 2", _ADVICE)
        rows, width = stored.shape
        bits = None
        if "packed" in parts:
            if stored.dtype != np.int32:
                refuse(f"is packed in {stored.dtype}, and captax reads int32", _ADVICE)
            shape = parts.get("shape")
            if shape is None or shape.shape != (2,) or shape.dtype.kind not in "iu":
                refuse("is packed, and nothing says its shape")
            words, (rows, width) = stored.shape[1], (int(size) for size in shape.read())
            told = {group.get("num_bits") for group in described}
            fitting = [each for each in _BITS if -(-width * each // _WORD) == words]
            if rows != stored.shape[0] or width < 1 or not fitting:
                refuse(f"is packed in {words} words for rows of {width}, not 8 or 4 bits", _ADVICE)
            bits = next((each for each in fitting if each in told), fitting[0])
        elif stored.dtype != np.int8 and stored.dtype not in FLOAT8.values():
            refuse(f"has scales and is {stored.dtype}, not 8 bits", _ADVICE)
        if scales.dtype.kind not in "fV" or scales.dtype in FLOAT8.values():
            refuse(f"has scales of type {scales.dtype}", _ADVICE)
        known = {(), (1,), (1, 1), (rows,), (rows, scales.shape[-1] if scales.shape else 0)}
        if scales.shape not in known or not _grouped(scales.shape, width):
            refuse(f"is {rows} x {width} and has scales {scales.shape}", _ADVICE)
        symmetric = [group.get("symmetric", True) for group in described]
        zeros = None
        if "zero_point" in parts:
            zeros = _zeros(parts["zero_point"], bits, rows, scales.shape)
            if zeros is None:
                refuse("has zero points that do not fit its scales")
            zeros = zeros if zeros.any() else None
        elif symmetric and not any(symmetric):
            refuse("lacks zero points")
        groups = None
        if "g_idx" in parts:
            groups = parts["g_idx"].read()
            count = scales.shape[1] if len(scales.shape) == 2 else 1
            if groups.shape != (width,) or groups.dtype.kind not in "iu" or (groups >= count).any():
                refuse("names groups of columns that it does not have")
            if (groups < 0).all() or (groups == np.arange(width) // (width // count)).all():
                groups = None
            elif (groups < 0).any():
                refuse("names groups of columns that it does not have")
        return cls(
            f"{where.parent}: {quoted(name)}", (rows, width), stored, bits, scales, zeros, groups
        )

    def lazy(self) -> LazyTensor:
        """The tensor: the numbers, and the codes if they can be kept as they are."""
        whole = np.issubdtype(self.stored.dtype, np.integer)
        # A code of 4 bits less the one for 0 fits 8 bits, and one of 8 bits does not.
        fits = self.zeros is None or self.bits == 4
        codes = None
        if whole and fits and self.groups is None:
            narrow = self.bits == 4 and self.zeros is None and self.shape[1] % 2 == 0
            count = self.scales.shape[1] if len(self.scales.shape) == 2 else 1
            codes = LazyCodes(4 if narrow else 8, count, self.scales.dtype, self.kept)
        float32 = np.dtype(np.float32)
        part = None if self.stored.part is None else self.numbers
        return LazyTensor(self.shape, float32, self.numbers, part, codes)

    def numbers(self, first: int = 0, count: int | None = None) -> Float[np.ndarray, "rows width"]:
        """The numbers of some rows."""
        count = self.shape[0] - first if count is None else count
        values = self._integers(first, count).astype(np.float32)
        scales = self._scales(first, count).astype(np.float32)
        zeros = np.zeros_like(scales) if self.zeros is None else self.zeros[first : first + count]
        if self.groups is not None:
            return (values - zeros[:, self.groups]) * scales[:, self.groups]
        grouped = values.reshape(count, scales.shape[1], -1)
        return ((grouped - zeros[..., None]) * scales[..., None]).reshape(count, -1)

    def kept(self) -> tuple[np.ndarray, np.ndarray]:
        """Codes and scales as `Quantised` has them."""
        rows, width = self.shape
        codes = self._integers(0, rows)
        if self.zeros is not None:
            grouped = codes.reshape(rows, self.zeros.shape[1], -1) - self.zeros[..., None]
            codes = grouped.reshape(rows, width).astype(np.int8)
        elif self.bits == 4 and width % 2 == 0:
            codes = packed(codes)
        return codes, self._scales(0, rows)

    def _integers(self, first: int, count: int) -> np.ndarray:
        """The codes of some rows, before zero points are taken away."""
        stored = self.stored.rows(first, count)
        if self.bits is None:
            return stored
        # Bytes of a word come in the order of its codes: the file's words are little-endian.
        values: np.ndarray = np.ascontiguousarray(stored).view(np.uint8)
        if self.bits == 4:
            values = np.stack([values & 15, values >> 4], axis=-1).reshape(count, -1)
        # The result is that of numbers with signs, since bytes overflow.
        middle = np.uint8(1 << self.bits - 1)
        return np.ascontiguousarray(values[:, : self.shape[1]] - middle).view(np.int8)

    def _scales(self, first: int, count: int) -> np.ndarray:
        """Those of some rows, `[rows groups]`. Raises `CheckpointError` for what is no number."""
        one = math.prod(self.scales.shape) == 1
        scales = self.scales.read() if one else self.scales.rows(first, count)
        if not np.isfinite(scales.astype(np.float32)).all():
            raise CheckpointError(
                f"{self.name} has scales that are not finite numbers; download it again"
            )
        return np.repeat(scales.reshape(1, 1), count, axis=0) if one else scales.reshape(count, -1)


def _grouped(shape: tuple[int, ...], width: int) -> bool:
    """Whether scales of this shape divide rows of this width."""
    groups = shape[1] if len(shape) == 2 else 1
    return groups >= 1 and width % groups == 0


def _zeros(
    tensor: LazyTensor, bits: int | None, rows: int, scales: tuple[int, ...]
) -> Int[np.ndarray, "rows groups"] | None:
    """Zero points by row and group, which are packed along the rows; None if they do not fit."""
    values, groups = tensor.read(), scales[1] if len(scales) == 2 else 1
    if bits is not None and values.dtype == np.int32:
        if values.shape != (-(-rows * bits // _WORD), groups):
            return None
        shifts = np.arange(0, _WORD, bits)
        codes: np.ndarray = values[:, None].view(np.uint32) >> shifts[:, None].astype(np.uint32)
        codes = (codes & ((1 << bits) - 1)).reshape(-1, groups)[:rows]
        return codes.astype(np.int32) - (1 << bits - 1)
    if values.dtype.kind not in "iu" or values.size not in (groups, rows * groups):
        return None
    half = 1 << (bits or 8) - 1
    if ((values < -half) | (values >= half)).any():
        return None
    return np.broadcast_to(values.astype(np.int32).reshape(-1, groups), (rows, groups))


def as_stored(
    tensors: Mapping[str, LazyTensor],
) -> tuple[dict[str, LazyTensor], dict[str, Any] | None]:
    """Tensors by the names under which a file has them, and what a config says of the narrow ones.

    Those are the tensors with `codes`. The config says nothing if there are none.
    """
    kinds: dict[str, tuple[int, int | None]] = {}
    found: dict[str, LazyTensor] = {}
    for name, tensor in tensors.items():
        if (codes := tensor.codes) is None:
            found[name] = tensor
            continue
        rows, width = tensor.shape
        kinds[name] = codes.bits, None if codes.groups == 1 else width // codes.groups
        room = -(-width * codes.bits // _WORD)
        read = functools.partial(_words, codes, width)
        found[f"{name}_packed"] = LazyTensor((rows, room), np.dtype(np.int32), read)
        scales = functools.partial(_only_scales, codes)
        found[f"{name}_scale"] = LazyTensor((rows, codes.groups), codes.dtype, scales)
        shape = functools.partial(np.array, (rows, width), np.int64)
        found[f"{name}_shape"] = LazyTensor((2,), np.dtype(np.int64), shape)
    wide = [n for n, each in tensors.items() if n not in kinds and len(each.shape) == 2]
    return found, _described(kinds, wide) if kinds else None


def _only_scales(codes: LazyCodes) -> np.ndarray:
    return codes.read()[1]


def _words(codes: LazyCodes, width: int) -> Int[np.ndarray, "rows words"]:
    """The codes of a matrix of rows so wide, packed."""
    values = codes.read()[0]
    whole = values if codes.bits == 8 else unpacked(values)
    found: np.ndarray = whole.view(np.uint8) + np.uint8(1 << codes.bits - 1)
    if codes.bits == 4:
        found = found[:, ::2] | found[:, 1::2] << 4
    room = -(-width * codes.bits // _WORD) * (_WORD // 8)
    return np.pad(found, ((0, 0), (0, room - found.shape[1]))).view("<i4")


def _described(kinds: Mapping[str, tuple[int, int | None]], wide: Iterable[str]) -> dict[str, Any]:
    """The `quantization_config` of matrices by name: their bits, and the size of their groups.

    None is the whole row. `wide` are names of the other tensors that could be taken for such.
    """
    modules = {name.rpartition(".")[0]: kind for name, kind in kinds.items()}
    counted = Counter(modules.values()).most_common()
    groups = {}
    for number, ((bits, size), _) in enumerate(counted):
        # The most usual kind is that of all layers that nothing else is said of.
        named = sorted(name for name, kind in modules.items() if kind == (bits, size))
        groups[f"group_{number}"] = {
            "targets": named if number else ["Linear"],
            "weights": {
                "num_bits": bits,
                "type": "int",
                "symmetric": True,
                "strategy": "channel" if size is None else "group",
                "group_size": size,
                "dynamic": False,
            },
            "input_activations": None,
            "output_activations": None,
            "format": _PACKED,
        }
    return {
        "quant_method": METHOD,
        "format": _PACKED,
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": _ignored([name.rpartition(".")[0] for name in wide], modules),
        "kv_cache_scheme": None,
    }


def _ignored(wide: Iterable[str], narrow: Iterable[str]) -> list[str]:
    """What leaves out the `wide` modules and none of the `narrow` ones.

    transformers has other modules around these than the names in files say, so each is named by its
    first part that no narrow one has, wherever it stands.
    """
    parts = {part for name in narrow for part in name.split(".")}
    found = dict.fromkeys(map(_anywhere, _TIED))
    for name in wide:
        own = next((part for part in name.split(".") if part not in parts), None)
        found[name if own is None else _anywhere(own)] = None
    return [*found]


def _anywhere(name: str) -> str:
    """The pattern of modules that are called so, and of those inside them."""
    return f"re:(.*[.])?{re.escape(name)}([.].*)?$"
