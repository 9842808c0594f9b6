"""The tagger: a model with an output for each of many tags, several of which fit a picture."""

import dataclasses
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from captax.checkpoints.directory import CONFIG
from captax.checkpoints.state import rebuilder
from captax.data import filled, load_images
from captax.data.example import Stored
from captax.errors import CheckpointError, OptionError, quoted
from captax.generation.programs import Programs, padded
from captax.images import ImageError, ImageSource, Prepared, SquareProcessor
from captax.models.arithmetic import map_pictures
from captax.pipelines.replicas import Replicated
from captax.pipelines.streaming import Placed, pace, several, stream_prepared
from captax.text.tags import CHARACTER, GENERAL, RATING, Spelling, Tag, read_tags

# The thresholds that programs for WD taggers commonly use.
GENERAL_THRESHOLD, CHARACTER_THRESHOLD = 0.35, 0.75
TAGS = "selected_tags.csv"
Other = TypeVar("Other")


@dataclasses.dataclass(frozen=True)
class Tagging:
    """The tags of a picture, with the names that the model has for them.

    `tags` are general ones, the most probable first, then those of other categories. `rating` is
    the most probable rating, if the model gives ratings.
    """

    tags: tuple[Tag, ...]
    rating: Tag | None = None

    def text(
        self,
        *,
        keep_underscores: bool = False,
        escape_parentheses: bool = False,
        rating: bool = False,
    ) -> str:
        """The tags as trainers read them: `1girl, solo, long hair`.

        With `rating`, it comes first, as `rating:general`. `Spelling` explains the other options.
        """
        spelt = Spelling(keep_underscores, escape_parentheses)
        first = [f"rating:{self.rating.tag}"] if rating and self.rating is not None else []
        return ", ".join([*first, *(spelt(each.tag) for each in self.tags)])

    def __str__(self) -> str:
        return self.text()


class Tagger(Replicated):
    """Tags pictures."""

    calibration = None  # as of a captioner without one
    frames = 0  # it reads no videos

    def __init__(
        self, model: Any, processor: SquareProcessor, tags: Sequence[tuple[str, str]]
    ) -> None:
        """`tags` are the name and the category of each of the model's outputs.

        Raises `OptionError` if the model has another number of outputs.
        """
        count = len(getattr(model.config, "labels", ()))
        if len(tags) != count:
            raise OptionError(f"{len(tags)} tags for a model of {count} outputs; give one for each")
        self.model = model
        self.processor = processor
        self.tags = tuple(tags)
        names = np.array([category for _, category in tags])
        self._ratings = np.flatnonzero(names == RATING)
        others = dict.fromkeys(names[(names != RATING) & (names != GENERAL)].tolist())
        self._parts = [(each, np.flatnonzero(names == each)) for each in (GENERAL, *others)]
        rebuild = rebuilder(model)
        scale, offset = processor.factors

        def program(
            parameters: dict[str, Any], pixels: UInt8[Array, "batch height width 3"]
        ) -> Float[Array, "batch tags"]:
            # The models were trained with blue first.
            normal = (pixels.astype(jnp.float32) * scale + offset)[..., ::-1]
            logits = map_pictures(rebuild(parameters).classify, normal)
            return jax.nn.sigmoid(logits.astype(jnp.float32))

        self._program = program
        self._programs = Programs()

    @classmethod
    def load(cls, directory: Path, model: Any) -> "Tagger":
        """The tagger of a checkpoint directory, whose model has been loaded."""
        tags = read_tags(directory / TAGS, len(model.config.labels))
        config = directory / CONFIG
        try:
            processor = SquareProcessor.from_timm(model.config.described)
        except ImageError as error:
            raise ImageError(f"{config}: {error}") from None
        if (processor.side, processor.side) != model.image_size:
            raise CheckpointError(
                f"{config}: the model is made for pictures of {model.image_size}, and they are "
                f"prepared with a side of {processor.side}; correct img_size or input_size"
            )
        return cls(model, processor, tags)

    def tag(
        self,
        images: ImageSource | Sequence[ImageSource],
        *,
        general: float = GENERAL_THRESHOLD,
        character: float = CHARACTER_THRESHOLD,
        exclude: Collection[str] = (),
        batch_size: int = 32,
    ) -> list[Tagging]:
        """Tag one picture or several, given as paths, bytes, PIL images or arrays, in order.

        A tag counts if it is more probable than the threshold of its category: `character`, or
        `general` for all others. Tags in `exclude` never count; they are given with underscores or
        with spaces. Raises `ImageError` for the first picture that cannot be read; `stream`
        continues after it.
        """
        found = []
        options: dict[str, Any] = {"general": general, "character": character, "exclude": exclude}
        for each in self.stream(several(images), batch_size=batch_size, **options):
            if isinstance(each, ImageError):
                raise each
            found.append(each)
        return found

    def stream(
        self, images: Iterable[ImageSource | Stored], *, batch_size: int = 32, **options: Any
    ) -> Iterator[Tagging | ImageError]:
        """Tag pictures as they arrive, in order; yield the error of one that is broken.

        `options` are the thresholds and `exclude`, as `tag` takes them.
        """
        pictures: Iterable[Any] = load_images(
            images, self._prepare_one, **pace(batch_size, self.at_once)
        )
        return self.stream_pixels(pictures, batch_size=batch_size, **options)

    def stream_pixels(
        self,
        pictures: Iterable[Prepared | Placed | Other],
        *,
        general: float = GENERAL_THRESHOLD,
        character: float = CHARACTER_THRESHOLD,
        exclude: Collection[str] = (),
        batch_size: int = 32,
    ) -> Iterator[Tagging | Other]:
        """Tag pictures that `prepare` has prepared, as `stream` does.

        Anything else among `pictures` is passed on in its turn.
        """
        for name, threshold in (("general", general), ("character", character)):
            if not 0 <= threshold <= 1:  # NaN is not
                raise OptionError(f"`{name}` is {threshold}; give a probability from 0 to 1")
        left_out = self._places(exclude)

        def look(pictures: list[Any], places: list[int]) -> Float[Array, "batch tags"]:
            rows = padded(len(pictures), batch_size)
            pixels = filled([each.pixels for each in pictures], rows)
            return self._programs.run("tag", lambda: self._program, self._weights(), pixels)

        placed = ((0, each.picture if isinstance(each, Placed) else each) for each in pictures)
        for _, found in stream_prepared(placed, look, batch_size=batch_size, at_once=self.at_once):
            if isinstance(found, np.ndarray):
                if np.isnan(found).any():
                    raise CheckpointError(
                        "the tagger gives no numbers for a picture; its weights are damaged, so "
                        "download it again"
                    )
                yield self._tagging(found, general, character, left_out)
            else:
                yield found

    def read(self, image: ImageSource) -> Any:
        """A picture decoded; what is prepared is not changed."""
        return image if isinstance(image, Prepared) else self.processor.decode(image)

    def prepare(self, image: ImageSource) -> Prepared:
        """A picture as `stream_pixels` takes it."""
        return self.processor.prepare(self.read(image))

    def _prepare_one(self, images: list[Any]) -> list[Prepared]:
        return [self.prepare(image) for image in images]

    def _places(self, names: Collection[str]) -> set[int]:
        """The places of tags by their names; raises `OptionError` for one that there is not."""
        asked = {_plain(name): name for name in ([names] if isinstance(names, str) else names)}
        found = {
            i: _plain(name)
            for i, (name, category) in enumerate(self.tags)
            if _plain(name) in asked and category != RATING
        }
        unknown = asked.keys() - set(found.values())
        if unknown:
            raise OptionError(
                f"`exclude` names {quoted(asked[min(unknown)])}, which is no tag of this model; "
                f"see its {TAGS}"
            )
        return set(found)

    def _tagging(
        self,
        probabilities: Float[np.ndarray, " tags"],
        general: float,
        character: float,
        left_out: set[int],
    ) -> Tagging:
        def named(place: int) -> Tag:
            return Tag(*self.tags[place], float(probabilities[place]))

        tags = []
        for category, places in self._parts:
            threshold = character if category == CHARACTER else general
            likely = places[probabilities[places] > threshold]
            order = likely[np.argsort(-probabilities[likely], kind="stable")].tolist()
            tags += [named(place) for place in order if place not in left_out]
        rating = None
        if len(self._ratings):
            rating = named(int(self._ratings[probabilities[self._ratings].argmax()]))
        return Tagging(tuple(tags), rating)


def mean_probability(tags: Sequence[Tag]) -> float:
    """The mean probability of tags; 0 if there are none."""
    return math.fsum(each.probability for each in tags) / len(tags) if tags else 0.0


def _plain(name: str) -> str:
    """A tag's name, however it is written."""
    return name.strip().replace("\\", "").replace(" ", "_")
