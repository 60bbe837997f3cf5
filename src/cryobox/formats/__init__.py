"""File formats: one module each; `reading` says what a path is, `writing` what the tables of a family are made with."""

from __future__ import annotations

from cryobox.formats.reading import (
    COORDINATE_SUFFIXES,
    IMAGE_SUFFIXES,
    describe,
    micrographs_of,
    plain_stems,
    read_coordinate_file,
    read_micrographs,
    read_particles,
    read_several,
    strip_of,
)
from cryobox.formats.writing import TableWriter, check_tables, table_writer

__all__ = [
    "COORDINATE_SUFFIXES",
    "IMAGE_SUFFIXES",
    "TableWriter",
    "check_tables",
    "describe",
    "micrographs_of",
    "plain_stems",
    "read_coordinate_file",
    "read_micrographs",
    "read_particles",
    "read_several",
    "strip_of",
    "table_writer",
]
