"""Whether a model and a data set speak of the same classes."""

from __future__ import annotations

from yolo_lite.utils.errors import UserError


def check_classes(model_names: list[str], data_names: list[str]) -> None:
    """The classes of a model and of data must be the same, in the same order.

    Raises:
        UserError: they are not; the message says how they differ.
    """
    if model_names == data_names:
        return
    if sorted(model_names) == sorted(data_names):
        detail = f"the same classes in another order: model {model_names[:8]}, data {data_names[:8]}"
    else:
        missing = [n for n in data_names if n not in model_names]
        unused = [n for n in model_names if n not in data_names]
        detail = f"only the data has {missing[:5] or 'none'}, only the model has {unused[:5] or 'none'}"
    raise UserError(f"the model has {len(model_names)} classes and the data {len(data_names)}: {detail}")
