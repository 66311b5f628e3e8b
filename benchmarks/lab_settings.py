"""Whether train.py can take what the runs of a plan ask for, before hours are spent on those before them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import chdir
from typing import Any

from jsonargparse import ArgumentError
from lightning.pytorch.cli import LightningArgumentParser

from benchmarks.lab_results import REPOSITORY
from yolo_lite.cli import TrainCLI
from yolo_lite.utils.errors import UserError


class Understood(Exception):
    """The arguments have been parsed."""


class SettingsParser(TrainCLI):
    """The command line of train.py as far as parsing goes: nothing is seeded, no data read, no model built."""

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        super().parse_arguments(parser, args)
        raise Understood


def check_settings(wanted: Mapping[str, Sequence[str]]) -> None:
    """Parse the options of runs, in the folder that train.py is started in.

    Args:
        wanted: the options of train.py by the name of the run.

    Raises:
        UserError: there is no such option, or not with that value.
    """
    for name, options in wanted.items():
        try:
            with chdir(REPOSITORY):
                SettingsParser(list(options))
        except Understood:
            continue
        except SystemExit:  # of --help and the like
            raise UserError(f"{name}: train.py does not train with {' '.join(options)}") from None
        except UnicodeDecodeError as error:
            raise UserError(f"{name}: a configuration file is not UTF-8: {error}") from None
        except (ArgumentError, UserError) as error:
            raise UserError(f"{name}: {error}") from None
