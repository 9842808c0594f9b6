"""What requests may say and what answers say, from which the OpenAPI document is made."""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from captax.explain import METHODS

Text = Annotated[str, Field(max_length=1000)]
Phrase = Annotated[str, Field(min_length=1, max_length=100)]
TokenId = Annotated[int, Field(ge=0, lt=2**31)]
Seed = Annotated[int, Field(ge=0, lt=2**31, description="Of the draws, when sampling.")]
Prompt = Annotated[Text, Field(description="Captions begin with it.")]

# A request holds a beam or a sample in memory for each of these, so there is a bound.
MOST_ROWS = 16
MOST_TOKENS = 256


def _known(method: str) -> str:
    if method not in METHODS:
        raise ValueError(f"give one of {', '.join(METHODS)}")
    return method


Method = Annotated[str, AfterValidator(_known), Field(json_schema_extra={"enum": [*METHODS]})]


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class PicturesRequest(_Request):
    """Pictures to look at."""

    images: list[str] = Field(
        min_length=1,
        description="Pictures: base64, data: URLs or, where the server allows it, http(s) URLs.",
    )


class Options(_Request):
    """How to decode; what is left out is as the checkpoint has it. Names as in `captax caption`."""

    num_beams: int | None = Field(None, ge=1, le=MOST_ROWS, description="1 is greedy.")
    early_stopping: bool | Literal["never"] | None = None
    num_return_sequences: int | None = Field(
        None, ge=1, le=MOST_ROWS, description="How many captions, best first."
    )
    num_beam_groups: int | None = Field(None, ge=1, le=MOST_ROWS)
    diversity_penalty: float | None = Field(None, ge=0, le=100)
    max_new_tokens: int | None = Field(None, ge=1, le=MOST_TOKENS)
    min_new_tokens: int | None = Field(None, ge=0, le=MOST_TOKENS)
    max_length: int | None = Field(None, ge=1, le=MOST_TOKENS)
    min_length: int | None = Field(None, ge=0, le=MOST_TOKENS)
    length_penalty: float | None = Field(None, ge=-10, le=10)
    do_sample: bool | None = Field(None, description="Draw words by their probabilities.")
    temperature: float | None = Field(None, ge=0.01, le=100)
    top_k: int | None = Field(None, ge=0, lt=2**31, description="0: all.")
    top_p: float | None = Field(None, gt=0, le=1)
    min_p: float | None = Field(None, ge=0, le=1)
    best_of: int | None = Field(None, ge=1, le=MOST_ROWS)
    repetition_penalty: float | None = Field(None, ge=0.01, le=100)
    no_repeat_ngram_size: int | None = Field(None, ge=0, le=MOST_TOKENS)
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


class CaptionRequest(Options, PicturesRequest):
    """Pictures to caption."""

    prompt: Prompt = ""
    seed: Seed = 0


class ExplainRequest(Options, PicturesRequest):
    """A picture, whose caption is to be explained word by word."""

    images: list[str] = Field(
        min_length=1,
        max_length=1,
        description="One picture: base64, a data: URL or, where allowed, an http(s) URL.",
    )
    caption: Text | None = Field(None, description="Explain this one instead of the model's own.")
    prompt: Prompt = ""
    seed: Seed = 0
    method: Method = Field("attention", description="Where the maps come from.")
    layer: int | None = Field(None, ge=0, le=1000, description="One layer, instead of their mean.")
    head: int | None = Field(None, ge=0, le=1000, description="One head, instead of their mean.")


class ScoreRequest(Options, PicturesRequest):
    """Captions to score: one for each picture, or any number for one picture."""

    captions: list[Text] = Field(min_length=1)
    prompt: Prompt = ""


class ClassifyRequest(PicturesRequest):
    """Pictures to label."""

    top: int = Field(5, ge=1, le=10_000, description="Labels a picture, most probable first.")


class Problem(BaseModel):
    """What was wrong and what to do about it."""

    type: str
    message: str
    request_id: str


class ErrorBody(BaseModel):
    """The body of every answer that is an error."""

    error: Problem


class Unread(BaseModel):
    """In place of the result of a picture that cannot be read."""

    name: str | None = Field(description="The file's name, where it was sent with one.")
    error: Problem


class AlternativeCaption(BaseModel):
    """A caption that was considered."""

    caption: str
    score: float


class Captioned(BaseModel):
    """A caption."""

    name: str | None = Field(description="The file's name, where it was sent with one.")
    caption: str
    score: float = Field(description="Mean log-probability of its tokens: 0 is certainty.")
    alternatives: list[AlternativeCaption] = Field(description="All captions returned, best first.")


class CaptionResponse(BaseModel):
    """A result for each picture, in order."""

    model: str
    captions: list[Captioned | Unread]


class ExplainedWord(BaseModel):
    """A word, how probable it was, and where the model looked for it."""

    text: str
    tokens: list[int] = Field(description="The steps that spelt it.")
    logprob: float
    map: list[list[float]] = Field(description="Weights on the grid, rows first; they sum to 1.")


class LikelyToken(BaseModel):
    """A token that could have stood there."""

    text: str
    probability: float


class ExplainResponse(BaseModel):
    """What the model said word by word; a prompt's words are not its own."""

    model: str
    caption: str
    words: list[ExplainedWord]
    steps: list[list[LikelyToken]] = Field(description="The likeliest tokens at each step.")
    grid: tuple[int, int] = Field(description="Rows and columns of the maps.")
    seen: tuple[float, float, float, float] = Field(
        description="The part of the upright picture that maps lie on: left, top, width, height, "
        "as fractions of it."
    )


class Scored(BaseModel):
    """How well a caption fits."""

    name: str | None
    caption: str
    score: float = Field(description="Mean log-probability of its tokens: 0 is certainty.")


class ScoreResponse(BaseModel):
    """A result for each caption, in order."""

    model: str
    scores: list[Scored | Unread]


class Label(BaseModel):
    """A label and its probability."""

    label: str
    probability: float


class Classified(Label):
    """What a picture shows."""

    name: str | None
    alternatives: list[Label] = Field(description="The most probable labels, best first.")


class ClassifyResponse(BaseModel):
    """A result for each picture, in order."""

    model: str
    labels: list[Classified | Unread]


class Limits(BaseModel):
    """What a request may hold."""

    bytes: int
    pixels: int
    images: int


class ModelResponse(BaseModel):
    """What this server runs, and what it takes."""

    model: str
    kind: Literal["captioner", "classifier"]
    version: str
    limits: Limits
    urls: bool
    defaults: dict[str, Any] = Field(description="Decoding options, unless a request says others.")


class Health(BaseModel):
    """Whether work is taken."""

    status: Literal["live", "ready", "warming up", "shutting down"]
