"""Choices of a job's options. Imports no other module, because the command's help needs these."""

from enum import StrEnum


class CaptionFormat(StrEnum):
    """Where captions are written, and in which format."""

    text = "text"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"
    coco = "coco"
    metadata = "metadata"
    sidecar = "sidecar"
    xmp = "xmp"
    embed = "embed"


class OnExists(StrEnum):
    """What to do if a picture already has a caption."""

    skip = "skip"
    overwrite = "overwrite"
    append = "append"
    prepend = "prepend"


class Resume(StrEnum):
    """What to do if an earlier run has done a part of the job."""

    if_possible = "if-possible"
    always = "always"
    never = "never"


class Compare(StrEnum):
    """How a picture is told to be another than in an earlier run."""

    time = "time"
    content = "content"


class Engine(StrEnum):
    """What captions the pictures: this process, or workers on a cluster."""

    local = "local"
    ray = "ray"
