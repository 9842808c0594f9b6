"""CHAIR: how many of the objects that captions mention are not in their pictures.

Rohrbach, Hendricks, Burns, Darrell and Saenko, "Object Hallucination in Image Captioning", EMNLP
2018, for the 80 objects of COCO, with the authors' list of words for each object
(https://github.com/LisaAnne/Hallucination). Their program forms singulars by general rules, which
are sometimes wrong ("glass" becomes "glas"); this one knows the plurals of the listed words only.
Their program misses two words because of a stray space, "motor bike" and "cheesecake"; this one
finds them.
"""

import dataclasses
import difflib
from collections.abc import Collection, Mapping, Sequence

from captax.errors import CaptaxError, quoted

# Words for an object besides its own name, as published, with their spelling mistakes.
_WORDS = {
    "person": "girl boy man woman kid child chef baker people adult rider baby worker passenger "
    "sister biker policeman cop officer lady cowboy bride groom male female guy traveler mother "
    "father gentleman pitcher player skier snowboarder skater skateboarder foreigner caller "
    "offender coworker trespasser patient politician soldier grandchild serviceman walker drinker "
    "doctor bicyclist thief buyer teenager student camper driver solider hunter shopper villager",
    "bicycle": "bike unicycle minibike trike",
    "car": "automobile van minivan sedan suv hatchback cab jeep coupe taxicab limo taxi",
    "motorcycle": "scooter motor_bike motor_cycle motorbike moped",
    "airplane": "jetliner plane air_plane monoplane aircraft jet airbus biplane seaplane",
    "bus": "minibus trolley",
    "train": "locomotive tramway caboose",
    "truck": "pickup lorry hauler firetruck",
    "boat": "ship liner sailboat motorboat dinghy powerboat speedboat canoe skiff yacht kayak "
    "catamaran pontoon houseboat vessel rowboat trawler ferryboat watercraft tugboat schooner "
    "barge ferry sailboard paddleboat lifeboat freighter steamboat riverboat battleship steamship",
    "traffic light": "street_light traffic_signal stop_light streetlight stoplight",
    "fire hydrant": "hydrant",
    "stop sign": "",
    "parking meter": "",
    "bench": "pew",
    "bird": "ostrich owl seagull goose duck parakeet falcon robin pelican waterfowl heron "
    "hummingbird mallard finch pigeon sparrow seabird osprey blackbird fowl shorebird woodpecker "
    "egret chickadee quail bluebird kingfisher buzzard willet gull swan bluejay flamingo cormorant "
    "parrot loon gosling waterbird pheasant rooster sandpiper crow raven turkey oriole cowbird "
    "warbler magpie peacock cockatiel lorikeet puffin vulture condor macaw peafowl cockatoo "
    "songbird",
    "cat": "kitten feline tabby",
    "dog": "puppy beagle pup chihuahua schnauzer dachshund rottweiler canine pitbull collie pug "
    "terrier poodle labrador doggie doberman mutt doggy spaniel bulldog sheepdog weimaraner corgi "
    "cocker greyhound retriever brindle hound whippet husky",
    "horse": "colt pony racehorse stallion equine mare foal palomino mustang clydesdale bronc "
    "bronco",
    "sheep": "lamb ram goat ewe",
    "cow": "cattle ox calf holstein heifer buffalo bull zebu bison",
    "elephant": "",
    "bear": "panda",
    "zebra": "",
    "giraffe": "",
    "backpack": "knapsack",
    "umbrella": "",
    "handbag": "wallet purse briefcase",
    "tie": "bow bow_tie",
    "suitcase": "suit_case luggage",
    "frisbee": "",
    "skis": "ski",
    "snowboard": "",
    "sports ball": "ball",
    "kite": "",
    "baseball bat": "",
    "baseball glove": "",
    "skateboard": "",
    "surfboard": "longboard skimboard shortboard wakeboard",
    "tennis racket": "racket",
    "bottle": "",
    "wine glass": "",
    "cup": "",
    "fork": "",
    "knife": "pocketknife",
    "spoon": "",
    "bowl": "container",
    "banana": "",
    "apple": "",
    "sandwich": "burger sub cheeseburger hamburger",
    "orange": "",
    "broccoli": "",
    "carrot": "",
    "hot dog": "",
    "pizza": "",
    "donut": "doughnut bagel",
    "cake": "cheesecake cupcake shortcake coffeecake pancake",
    "chair": "seat stool",
    "couch": "sofa recliner futon loveseat settee chesterfield",
    "potted plant": "houseplant",
    "bed": "",
    "dining table": "table desk",
    "toilet": "urinal commode lavatory potty",
    "tv": "monitor televison television",
    "laptop": "computer notebook netbook lenovo macbook laptop_computer",
    "mouse": "",
    "remote": "",
    "keyboard": "",
    "cell phone": "mobile_phone phone cellphone telephone smartphone iphone",
    "microwave": "",
    "oven": "stovetop stove",
    "toaster": "",
    "sink": "",
    "refrigerator": "fridge freezer",
    "book": "",
    "clock": "",
    "vase": "",
    "scissors": "",
    "teddy bear": "teddybear",
    "hair drier": "hairdryer",
    "toothbrush": "",
}
COCO_OBJECTS = tuple(_WORDS)
"""The names of COCO's 80 objects."""

_IRREGULAR = {
    "child": "children",
    "grandchild": "grandchildren",
    "mouse": "mice",
    "goose": "geese",
    "ox": "oxen",
    "knife": "knives",
    "pocketknife": "pocketknives",
    "thief": "thieves",
    "calf": "calves",
}


def _plural(word: str) -> str:
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word.endswith("man"):
        return word[:-3] + "men"
    if word.endswith("y") and word[-2] not in "aeiou":
        return word[:-1] + "ies"
    return word + ("es" if word.endswith(("s", "x", "z", "ch", "sh")) else "s")


# One or two words -> their object. Pairs with `None` mention no object of COCO: a "baby animal"
# is not a person.
_OBJECTS = {
    word.replace("_", " "): name
    for name, words in _WORDS.items()
    for word in (name, *words.split())
}
_PAIRS: dict[str, str | None] = {word: name for word, name in _OBJECTS.items() if " " in word}
_ANIMALS = "bird cat dog horse sheep cow elephant bear zebra giraffe animal cub"
_PAIRS |= {
    f"{qualifier} {animal}": _OBJECTS.get(animal)
    for qualifier in ("baby", "adult")
    for animal in _ANIMALS.split()
}
_PAIRS |= {"passenger jet": "airplane", "passenger train": "train", "toilet seat": "toilet"}
_SINGULARS = {_plural(word): word for words in (*_OBJECTS, *_PAIRS) for word in words.split()}


def mentioned_objects(caption: Sequence[str]) -> list[str]:
    """COCO's objects in a caption's lowercase tokens, one entry for each mention."""
    words = [_SINGULARS.get(token, token) for token in caption]
    found: list[str | None] = []
    seats = []
    place = 0
    while place < len(words):
        pair = " ".join(words[place : place + 2])
        if pair in _PAIRS:
            found.append(_PAIRS[pair])
            place += 2
            continue
        if words[place] == "seat":
            seats.append(len(found))
        found.append(_OBJECTS.get(words[place]))
        place += 1
    if "toilet" in words:  # then "seat" means the toilet's seat, not a chair
        for seat in seats:
            found[seat] = None
    return [name for name in found if name is not None]


def known_object(name: object) -> str:
    """Return `name` if it is one of `COCO_OBJECTS`.

    Raises:
        CaptaxError: it is not; the message suggests the nearest name.
    """
    if isinstance(name, str) and name in COCO_OBJECTS:
        return name
    near = difflib.get_close_matches(str(name), COCO_OBJECTS, n=1)
    hint = f"did you mean {quoted(near[0])}?" if near else "use COCO's names"
    raise CaptaxError(f"COCO has no object {quoted(name)}: {hint}")


@dataclasses.dataclass(frozen=True)
class Chair:
    """The result of `chair`: shares in [0, 1]; lower is better.

    Attributes:
        sentences: CHAIRs, the share of captions that mention an object that is not in the picture.
        instances: CHAIRi, the share of such objects among all objects that captions mention.
        mentioned: image id -> the objects that its caption mentions, one entry for each mention.
        hallucinated: image id -> those of them that are not in the picture.
    """

    sentences: float
    instances: float
    mentioned: dict[str, list[str]]
    hallucinated: dict[str, list[str]]


def chair(
    hypotheses: Mapping[str, Sequence[str]],
    objects: Mapping[str, Collection[str]],
    references: Mapping[str, Sequence[Sequence[str]]] | None = None,
) -> Chair:
    """Compute CHAIR for one caption of each image.

    An object is in a picture if `objects` names it or a reference mentions it, as in the paper.
    CHAIRi is 0 if no caption mentions an object.

    Args:
        hypotheses: image id -> the caption's lowercase tokens.
        objects: image id -> the names of COCO's objects in it.
        references: image id -> the lowercase tokens of each reference; without them, only the
            objects that `objects` names are in a picture.

    Raises:
        CaptaxError: there is no hypothesis, an image's objects or references are missing, or an
            object is not one of `COCO_OBJECTS`.
    """
    if not hypotheses:
        raise CaptaxError("CHAIR needs hypotheses: give at least one image")
    mentioned, hallucinated = {}, {}
    for image, caption in hypotheses.items():
        present = _present(image, objects, references)
        mentioned[image] = mentioned_objects(caption)
        hallucinated[image] = [name for name in mentioned[image] if name not in present]
    spoken = sum(map(len, mentioned.values()))
    return Chair(
        sentences=sum(map(bool, hallucinated.values())) / len(hypotheses),
        instances=sum(map(len, hallucinated.values())) / (spoken or 1),
        mentioned=mentioned,
        hallucinated=hallucinated,
    )


def _present(
    image: str,
    objects: Mapping[str, Collection[str]],
    references: Mapping[str, Sequence[Sequence[str]]] | None,
) -> set[str]:
    if image not in objects:
        raise CaptaxError(
            f"image {quoted(image)} has a caption but no list of objects: add its objects"
        )
    try:
        present = set(map(known_object, objects[image]))
    except CaptaxError as error:
        raise CaptaxError(f"image {quoted(image)}: {error}") from None
    if references is not None:
        if image not in references:
            raise CaptaxError(
                f"image {quoted(image)} has a caption but no references: add references"
            )
        for reference in references[image]:
            present.update(mentioned_objects(reference))
    return present
