"""The fields of requests and answers, from which the OpenAPI document is made."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from pydantic_core import PydanticCustomError

from captax.explain import METHODS


def _if_null(default: Any) -> BeforeValidator:
    """For a field that counts as not given if it is null."""
    return BeforeValidator(lambda value: default if value is None else value)


def _missing_if_null(value: Any) -> Any:
    if value is None:
        raise PydanticCustomError("missing", "is null")
    return value


Text = Annotated[str, Field(max_length=1000)]
Phrase = Annotated[str, Field(min_length=1, max_length=100)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[
    int, _if_null(0), Field(ge=0, lt=2**31, description="Seed of the random draws when sampling.")
]
Prompt = Annotated[
    Text,
    _if_null(""),
    Field(description="Text that captions begin with; a vision-language model answers it instead."),
]

# A request keeps a beam or a sample in memory for each of these, so there is a limit.
MOST_ROWS = 16
MOST_TOKENS = 256


def _known(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"is not a method; give one of {', '.join(METHODS)}")
    return method


Method = Annotated[
    str,
    AfterValidator(_known),
    _if_null("attention"),
    Field(json_schema_extra={"enum": [*METHODS]}),
]


_REQUIRED = BeforeValidator(_missing_if_null)


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class PicturesRequest(_Request):
    """A request with pictures."""

    kinds: ClassVar[tuple[str, ...]] = ("multipart/form-data", "application/json")

    images: Annotated[list[str], _REQUIRED] = Field(
        min_length=1,
        description="Pictures: base64, data: URLs or, where the server allows it, http(s) URLs.",
    )

    def take_pictures(self) -> list[str]:
        """The pictures, which are no longer part of it."""
        images, self.images = self.images, []
        return images


class Options(_Request):
    """Decoding options, named as in `captax caption`; the checkpoint has the defaults."""

    num_beams: int | None = Field(
        None, ge=1, le=MOST_ROWS, description="Number of beams; 1 is greedy search."
    )
    early_stopping: bool | Literal["never"] | None = None
    num_return_sequences: int | None = Field(
        None, ge=1, le=MOST_ROWS, description="Number of captions for each picture, best first."
    )
    num_beam_groups: int | None = Field(None, ge=1, le=MOST_ROWS)
    diversity_penalty: float | None = Field(None, ge=0, le=100)
    max_new_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    min_new_tokens: int | None = Field(None, ge=0, le=MOST_TOKENS)
    max_length: int | None = Field(None, ge=1, le=MOST_TOKENS)
    min_length: int | None = Field(None, ge=0, le=MOST_TOKENS)
    max_words: int | None = Field(
        None, ge=1, le=MOST_TOKENS, description="The most words of a caption, after its prompt."
    )
    length_penalty: float | None = Field(None, ge=-10, le=10)
    do_sample: bool | None = Field(
        None, description="Draw tokens at random by their probabilities."
    )
    temperature: float | None = Field(None, ge=0.01, le=100)
    top_k: int | None = Field(
        None, ge=0, lt=2**31, description="Draw from the k most probable tokens; 0 draws from all."
    )
    top_p: float | None = Field(None, gt=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    best_of: int | None = Field(None, ge=1, le=MOST_ROWS)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    no_repeat_ngram_size: int | None = Field(None, ge=0, le=MOST_TOKENS)
    end_loops: bool | None = Field(
        None, description="End a caption that says the same again and again, and cut the copies."
    )
    preamble: bool | None = Field(
        None,
        description="Whether captions may begin with words about the picture, such as 'This image "
        "shows'.",
    )
    bad_words: list[Phrase] | None = Field(None, max_length=32)
    force_words: list[Phrase] | None = Field(None, max_length=8)
    suppress_tokens: list[TokenId] | None = Field(None, max_length=256)
    begin_suppress_tokens: list[TokenId] | None = Field(None, max_length=256)
    forced_bos_token_id: TokenId | None = None
    forced_eos_token_id: TokenId | None = None

    def given(self) -> dict[str, Any]:
        """The options that were given, as a captioner takes them."""
        names = Options.model_fields
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}


class Asking(_Request):
    """What a model is asked, named as in `captax caption`."""

    prompt: Prompt = ""
    system: Annotated[Text, _if_null("")] = Field(
        "", description="What a vision-language model is told before the prompt."
    )
    raw: Annotated[bool, _if_null(False)] = Field(
        False,
        description="Give a vision-language model the prompt as it is, without its prompt format.",
    )

    def told(self) -> dict[str, Any]:
        """What only a model with a prompt format can be told, as far as it was given."""
        said = {"system": self.system, "raw": self.raw}
        return {name: value for name, value in said.items() if value}


class CaptionRequest(Options, Asking, PicturesRequest):
    """Pictures to caption."""

    seed: Seed = 0


class ExplainRequest(Options, PicturesRequest):
    """A picture whose caption is explained word by word."""

    images: Annotated[list[str], _REQUIRED] = Field(
        min_length=1,
        max_length=1,
        description="One picture: base64, a data: URL or, where allowed, an http(s) URL.",
    )
    caption: Text | None = Field(None, description="Caption to explain instead of the model's own.")
    prompt: Prompt = ""
    seed: Seed = 0
    method: Method = Field("attention", description="Method that makes the maps.")
    layer: int | None = Field(
        None, ge=0, le=1000, description="Use this layer instead of the mean of all."
    )
    head: int | None = Field(
        None, ge=0, le=1000, description="Use this head instead of the mean of all."
    )


class ScoreRequest(Options, Asking, PicturesRequest):
    """Captions to score: one for each picture, or any number for one picture."""

    captions: Annotated[list[Text], _REQUIRED] = Field(min_length=1)


class ClassifyRequest(PicturesRequest):
    """Pictures to label."""

    top: Annotated[int, _if_null(5)] = Field(
        5, ge=1, le=10_000, description="Number of labels for each picture, most probable first."
    )


class Problem(BaseModel):
    """An error: what was wrong and what to do."""

    type: str
    message: str
    request_id: str


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: Problem


class Unread(BaseModel):
    """An error in place of the result, for a picture that cannot be read."""

    name: str | None = Field(description="The file's name, if it was sent with one.")
    error: Problem


class AlternativeCaption(BaseModel):
    """One of the captions that were returned."""

    caption: str
    score: float


class Captioned(BaseModel):
    """The caption of a picture."""

    name: str | None = Field(description="The file's name, if it was sent with one.")
    caption: str
    score: float = Field(description="Mean log-probability of its tokens; 0 means certainty.")
    confidence: float | None = Field(
        description="The chance that a person would accept it; null without a calibration."
    )
    looped: bool = Field(
        description="Whether it said the same again and again, and was cut after the first time."
    )
    removed: str = Field(
        description="The preamble that was removed from its beginning; empty if there was none."
    )
    alternatives: list[AlternativeCaption] = Field(description="All captions returned, best first.")


class CaptionResponse(BaseModel):
    """A result for each picture, in order."""

    model: str
    captions: list[Captioned | Unread]


UNKNOWN = Field(
    description="Words of the caption that was sent which the model does not know; it reads each "
    "as one unknown word."
)


class ExplainedWord(BaseModel):
    """A word, its probability, and where the model looked for it."""

    text: str
    tokens: list[int] = Field(description="Numbers of the steps whose tokens spell it.")
    logprob: float
    map: list[list[float]] = Field(description="Weights of the grid, row by row; they sum to 1.")


class LikelyToken(BaseModel):
    """A token that was likely at this step."""

    text: str
    probability: float


class ExplainResponse(BaseModel):
    """A caption word by word, without the words of a prompt."""

    model: str
    caption: str
    words: list[ExplainedWord]
    steps: list[list[LikelyToken]] = Field(description="The most probable tokens at each step.")
    grid: tuple[int, int] = Field(description="Rows and columns of the maps.")
    seen: tuple[float, float, float, float] = Field(
        description="The part of the upright picture that maps cover: left, top, width and height, "
        "as fractions of the picture."
    )
    unknown_words: list[str] = UNKNOWN


class Scored(BaseModel):
    """The score of a caption for a picture."""

    name: str | None
    caption: str
    score: float = Field(description="Mean log-probability of its tokens; 0 means certainty.")
    unknown_words: list[str] = UNKNOWN


class ScoreResponse(BaseModel):
    """A result for each caption, in order."""

    model: str
    scores: list[Scored | Unread]


class Label(BaseModel):
    """A label and its probability."""

    label: str
    probability: float


class Classified(Label):
    """The label of a picture."""

    name: str | None
    alternatives: list[Label] = Field(description="The most probable labels, best first.")


class ClassifyResponse(BaseModel):
    """A result for each picture, in order."""

    model: str
    labels: list[Classified | Unread]


class Limits(BaseModel):
    """Limits of a request."""

    bytes: int
    pixels: int
    images: int


class ModelResponse(BaseModel):
    """The model that this server runs, its limits and its defaults."""

    model: str
    kind: Literal["captioner", "classifier"]
    version: str
    limits: Limits
    urls: bool
    threshold: float | None = Field(
        description="The confidence from which the model is sure; null without a calibration."
    )
    defaults: dict[str, Any] = Field(description="Decoding options for requests that give none.")


class Health(BaseModel):
    """The state of the server."""

    status: Literal["live", "ready", "warming up", "shutting down"]
