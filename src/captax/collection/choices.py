"""What a job may be asked for by name. Imports nothing: a command shows these in its help."""

from enum import StrEnum


class CaptionFormat(StrEnum):
    """Where captions go, and how."""

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
    """What to do about a picture that has a caption already."""

    skip = "skip"
    overwrite = "overwrite"
    append = "append"
    prepend = "prepend"


class Resume(StrEnum):
    """What to do about work that was done before."""

    if_possible = "if-possible"
    always = "always"
    never = "never"


class Engine(StrEnum):
    """What captions the pictures: this process, or workers on a cluster."""

    local = "local"
    ray = "ray"
