"""How models were taught to read a question: formats as data, which tests hold to chat templates.

A prompt is whole, its first token included, so that it is encoded without adding special tokens.
"""

import dataclasses
import re
from collections.abc import Callable, Sequence

from captax.errors import OptionError, quoted
from captax.text.languages import Language, in_code, in_sentence
from captax.text.tasks import FLORENCE2 as FLORENCE2_TASKS
from captax.text.tasks import Task

_MARKER = re.compile(r"<[^<>\s]+>")
_NUMBER = re.compile(r"\\\{\w+\\\}")


@dataclasses.dataclass(frozen=True)
class TileMarkers:
    """What stands around the tokens of a picture that is seen as tiles and a whole view.

    `around` stands before each view and after the last one; then comes `cell`, which names a tile's
    row and column, or `whole`. A row of tiles ends with `row_end`, and so do all of them.
    """

    around: str
    cell: str
    whole: str
    row_end: str

    def text(self, view: str, grid: tuple[int, int]) -> str:
        """The text for a picture whose `view`s are all the same text.

        `grid` has the rows and columns of its tiles; (0, 0) if there is only the whole view.
        """
        rows, columns = grid
        parts = []
        for row in range(1, rows + 1):
            for column in range(1, columns + 1):
                parts += [self.around, self.cell.format(row=row, column=column), view]
            parts.append(self.row_end)
        if parts:
            parts.append(self.row_end)
        return "".join([*parts, self.around, self.whole, view, self.around])


@dataclasses.dataclass(frozen=True)
class VideoMarkers:
    """What stands around the tokens of a video's frames.

    A video is `start`, `before` and the tokens of each frame, and `end`. In `start`, {count} is the
    number of frames in words and {duration} the video's length as H:MM:SS. In `before`, {clock} is
    the time of the frame as MM:SS and {seconds:.1f} the same in seconds. `token` keeps the place of
    a frame's token, if that of a picture does not. If it is `whole`, all frames stand between the
    marks of one picture.
    """

    start: str = ""
    before: str = ""
    end: str = ""
    token: str | None = None
    whole: bool = False


@dataclasses.dataclass(frozen=True)
class PromptFormat:
    """The texts around what a user says.

    A prompt is `start`, the system's turn, and the user's turn: `user`, the pictures, `asked`, the
    prompt, `user_end`. Then `answer` begins the model's turn. `pictureless` takes the place of
    `asked` if there is no picture.

    Attributes:
        system: what stands before and after the system's text; None if the format has no such turn.
        system_text: what the system says if nothing else is given; None for nothing.
        picture: the token of a place of a picture; None if the model sees none.
        picture_start: what stands before a picture's tokens.
        picture_end: what stands after them.
        tiles: what stands around them instead, if pictures are seen as tiles.
        video: what stands around the frames of a video; None if they are pictures as others.
        prompt: what is asked if nothing else is given.
        reply: what the model's answer begins with, such as the space after a colon.
        tasks: the tasks that a prompt may begin with the token of.
        styles: which of the named prompts in `styles.yaml` the model understands.
        speak: what asks for a language in a prompt; None if the model writes only one.
    """

    user: str
    user_end: str
    answer: str
    start: str = ""
    asked: str = ""
    pictureless: str | None = None
    system: tuple[str, str] | None = None
    system_text: str | None = None
    picture: str | None = None
    picture_start: str = ""
    picture_end: str = ""
    tiles: TileMarkers | None = None
    video: VideoMarkers | None = None
    prompt: str = ""
    reply: str = ""
    tasks: tuple[Task, ...] = ()
    styles: str = "general"
    speak: Callable[[str, Language], str] | None = in_sentence

    def picture_text(self, places: int, grid: tuple[int, int] = (0, 0)) -> str:
        """The text for one picture, each of whose views takes `places` tokens.

        `grid` has the rows and columns of its tiles. Raises `OptionError` if the format has no
        pictures, or no tiles and was given some.
        """
        if self.picture is None:
            raise OptionError("a prompt of this format has no pictures; give a text alone")
        view = self.picture * places
        if self.tiles is not None:
            return self.tiles.text(view, grid)
        if grid != (0, 0):
            raise OptionError(
                f"a picture of {grid[0]} x {grid[1]} tiles: a prompt of this format has no tiles"
            )
        return f"{self.picture_start}{view}{self.picture_end}"

    def video_text(self, places: Sequence[int], times: Sequence[float], duration: float) -> str:
        """The text for a video of `duration` seconds, of whose frames each takes `places` tokens.

        `times` are the seconds of the frames. Raises `OptionError` if the format has no pictures.
        """
        how = self.video
        if how is None:
            return "".join(map(self.picture_text, places))
        form = self if how.token is None else dataclasses.replace(self, picture=how.token)
        told = {"count": in_words(len(times)), "duration": _clock(duration, hours=True)}
        if how.whole:
            shown = form.picture_text(sum(places))
        else:
            shown = "".join(
                how.before.format(clock=_clock(time), seconds=time) + form.picture_text(count)
                for count, time in zip(places, times, strict=True)
            )
        return f"{how.start.format(**told)}{shown}{how.end}"

    def text(
        self, prompt: str | None = None, *, pictures: Sequence[str] = (), system: str | None = None
    ) -> str:
        """The whole text that the model continues with its answer.

        `pictures` are texts of `picture_text`, which come before the prompt. White space around
        `prompt` and `system` is left out; by default they are those of the format. Raises
        `OptionError` if they contain one of the format's markers, or if there is a system's text
        and no turn for it.
        """
        asked = self._said(self.prompt if prompt is None else prompt)
        between = self.asked if pictures or self.pictureless is None else self.pictureless
        parts = [self.start]
        said = self.system_text if system is None else system
        if said is not None:
            if self.system is None:
                raise OptionError("a prompt of this format has no system's turn; leave it out")
            parts += [self.system[0], self._said(said), self.system[1]]
        parts += [self.user, *pictures, between, asked, self.user_end, self.answer]
        return "".join(parts)

    def task_of(self, prompt: str) -> tuple[Task | None, str]:
        """The task whose token a prompt begins with, if there is one, and the rest of the prompt.

        Raises `OptionError` if a token stands elsewhere.
        """
        begun = next((task for task in self.tasks if prompt.startswith(task.token)), None)
        rest = prompt if begun is None else prompt.removeprefix(begun.token)
        if other := next((task.token for task in self.tasks if task.token in rest), None):
            raise OptionError(f"{other} names a task; put it at the beginning of the prompt, alone")
        return begun, rest

    @property
    def markers(self) -> re.Pattern[str]:
        """Matches the texts that are tokens with a meaning of their own to the model."""
        tiles = () if self.tiles is None else dataclasses.astuple(self.tiles)
        around = self.start, self.user, self.user_end, self.answer, self.asked, *(self.system or ())
        shown = self.picture or "", self.picture_start, self.picture_end
        frame = (self.video and self.video.token) or ""
        found = _MARKER.findall("".join([*tiles, *around, *shown, frame]))
        patterns = {_NUMBER.sub(r"\\d+", re.escape(marker)) for marker in found}
        return re.compile("|".join(sorted(patterns)) or r"(?!)")

    def _said(self, text: str) -> str:
        if found := self.markers.search(text):
            raise OptionError(
                f"the prompt contains {quoted(found[0])}, which has a meaning of its own to the "
                "model; leave it out"
            )
        return text.strip()


SMOLVLM = PromptFormat(
    start="<|im_start|>",
    system=("System: ", "<end_of_utterance>\n"),
    user="User:",
    pictureless=" ",
    user_end="<end_of_utterance>\n",
    answer="Assistant:",
    picture="<image>",
    tiles=TileMarkers(
        "<fake_token_around_image>", "<row_{row}_col_{column}>", "<global-img>", "\n"
    ),
    video=VideoMarkers(
        start=" You are provided the following series of {count} frames from a {duration} "
        "[H:MM:SS] video.\n",
        before="\nFrame from {clock}:",
        end="\n\n",
    ),
    prompt="Can you describe this image?",
    reply=" ",
)
# It was taught no videos, whose frames it reads as pictures.
IDEFICS3 = dataclasses.replace(SMOLVLM, start="<|begin_of_text|>", video=None)
PALIGEMMA = PromptFormat(
    user="",
    asked="<bos>",
    user_end="\n",
    answer="",
    picture="<image>",
    prompt="caption en",
    styles="paligemma",
    speak=in_code,
)
FLORENCE2 = PromptFormat(
    user="",
    asked="<s>",
    user_end="</s>",
    answer="",
    picture="<image>",
    prompt=FLORENCE2_TASKS[0].question,
    tasks=FLORENCE2_TASKS,
    styles="florence2",
    speak=None,
)
LLAVA = PromptFormat(
    start="<s>",
    system=("", " "),
    user="USER: ",
    user_end=" ",
    answer="ASSISTANT:",
    reply=" ",
    picture="<image>",
    picture_end="\n",
    prompt="Describe this image.",
)
CHATML = PromptFormat(
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    user="<|im_start|>user\n",
    user_end="<|im_end|>\n",
    answer="<|im_start|>assistant\n",
)
SMOLLM2 = dataclasses.replace(
    CHATML, system_text="You are a helpful AI assistant named SmolLM, trained by Hugging Face"
)
QWEN2 = dataclasses.replace(CHATML, system_text="You are a helpful assistant.")
QWEN25 = dataclasses.replace(
    CHATML,
    system_text="You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
)
QWEN_VL = dataclasses.replace(
    QWEN2,
    picture="<|image_pad|>",
    picture_start="<|vision_start|>",
    picture_end="<|vision_end|>",
    video=VideoMarkers(token="<|video_pad|>", whole=True),
    prompt="Describe this image.",
)
QWEN3_VL = dataclasses.replace(
    QWEN_VL,
    system_text=None,
    video=VideoMarkers(token="<|video_pad|>", before="<{seconds:.1f} seconds>"),
)
GEMMA = PromptFormat(
    start="<bos>",
    user="<start_of_turn>user\n",
    user_end="<end_of_turn>\n",
    answer="<start_of_turn>model\n",
)
LLAMA2 = PromptFormat(
    start="<s>[INST] ",
    system=("<<SYS>>\n", "\n<</SYS>>\n\n"),
    user="",
    user_end=" [/INST]",
    answer="",
)
LLAMA3 = PromptFormat(
    start="<|begin_of_text|>",
    system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
    user="<|start_header_id|>user<|end_header_id|>\n\n",
    user_end="<|eot_id|>",
    answer="<|start_header_id|>assistant<|end_header_id|>\n\n",
)
JOYCAPTION = dataclasses.replace(
    LLAMA3,
    # The dates are those of Llama 3.1's own template.
    system=(
        "<|start_header_id|>system<|end_header_id|>\n\n"
        "Cutting Knowledge Date: December 2023\nToday Date: 26 July 2024\n\n",
        "<|eot_id|>",
    ),
    system_text="You are a helpful image captioner.",
    picture="<|reserved_special_token_69|>",
    picture_start="<|reserved_special_token_70|>",
    picture_end="<|reserved_special_token_71|>",
    prompt="Write a long detailed description for this image.",
    styles="joycaption",
)
GEMMA3 = PromptFormat(
    start="<bos><start_of_turn>user\n",
    system=("", "\n\n"),
    user="",
    user_end="<end_of_turn>\n",
    answer="<start_of_turn>model\n",
    picture="<image_soft_token>",
    picture_start="\n\n<start_of_image>",
    picture_end="<end_of_image>\n\n",
    prompt="Describe this image.",
)
# For language models alone, by what only their chat templates contain; the first one counts.
_TEMPLATES = (
    ("named SmolLM, trained by Hugging Face", SMOLLM2),
    ("You are Qwen, created by Alibaba Cloud. You are a helpful assistant.", QWEN25),
    ("<|im_start|>system\\nYou are a helpful assistant.<|im_end|>", QWEN2),
    ("<|im_start|>system\nYou are a helpful assistant.<|im_end|>", QWEN2),
    ("<|im_start|>", CHATML),
    ("<start_of_turn>", GEMMA),
    ("<<SYS>>", LLAMA2),
    ("<|start_header_id|>", LLAMA3),
)
# A template with this adds texts of its own, such as today's date.
_DATED = "strftime_now"


def format_of(chat_template: str | None) -> PromptFormat | None:
    """The format of the language models that have this chat template, if captax knows it.

    The template is only looked at; nothing in it is run.
    """
    if chat_template is None or _DATED in chat_template:
        return None
    return next((each for mark, each in _TEMPLATES if mark in chat_template), None)


_ONES = (
    *("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"),
    *("eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen"),
    "nineteen",
)
_TENS = ("twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")


def in_words(number: int) -> str:
    """A whole number from 0 to 999 in words, as `num2words` writes it."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = _TENS[number // 10 - 2], number % 10
        return f"{tens}-{_ONES[ones]}" if ones else tens
    rest = f" and {in_words(number % 100)}" if number % 100 else ""
    return f"{_ONES[number // 100]} hundred{rest}"


def _clock(seconds: float, *, hours: bool = False) -> str:
    """A time as MM:SS, or as H:MM:SS."""
    minutes, rest = divmod(int(seconds), 60)
    return (
        f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}" if hours else f"{minutes:02d}:{rest:02d}"
    )


# By the `model_type` of models that see pictures; the first one is that of most checkpoints.
FORMATS: dict[str, tuple[PromptFormat, ...]] = {
    "smolvlm": (SMOLVLM,),
    "idefics3": (IDEFICS3,),
    "paligemma": (PALIGEMMA,),
    "llava": (LLAVA, JOYCAPTION),
    "gemma3": (GEMMA3,),
    "florence2": (FLORENCE2,),
    "qwen2_5_vl": (QWEN_VL,),
    "qwen3_vl": (QWEN3_VL,),
}


def picture_format(model_type: str, picture: Callable[[], str]) -> PromptFormat | None:
    """The format of a family's checkpoint.

    Of several it is the one in which the token `picture()` keeps a picture's place.
    """
    known = FORMATS[model_type]
    if len(known) == 1:
        return known[0]
    token = picture()
    return next((each for each in known if each.picture == token), None)
