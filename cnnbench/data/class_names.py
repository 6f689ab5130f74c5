"""Class names of published datasets, in the order of their labels."""

import string
from collections.abc import Mapping
from types import MappingProxyType


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_DIGITS = tuple(string.digits)
# In these splits of EMNIST, the two cases of a letter that look alike are one class.
_UNMERGED = tuple("abdefghnqrt")
_CIFAR10 = _words("airplane automobile bird cat deer dog frog horse ship truck")
# Fine labels; the file fine_label_names.txt of the archive.
_CIFAR100 = _words(
    """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus
    butterfly camel can castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab
    crocodile cup dinosaur dolphin elephant flatfish forest fox girl hamster house kangaroo keyboard
    lamp lawn_mower leopard lion lizard lobster man maple_tree motorcycle mountain mouse mushroom
    oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate poppy porcupine
    possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake
    spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor
    train trout tulip turtle wardrobe whale willow_tree wolf woman worm
    """
)
_ORGANS = (
    *("bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right", "liver"),
    *("lung-left", "lung-right", "pancreas", "spleen"),
)

NAMES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "mnist": _DIGITS,
        "mnist_5k": _DIGITS,
        "fashion_mnist": (
            *("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat"),
            *("Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot"),
        ),
        "kmnist": _words("o ki su tsu na ha ma ya re wo"),
        **dict.fromkeys(
            ("emnist", "emnist/byclass"),
            (*_DIGITS, *string.ascii_uppercase, *string.ascii_lowercase),
        ),
        **dict.fromkeys(
            ("emnist/bymerge", "emnist/balanced"),
            (*_DIGITS, *string.ascii_uppercase, *_UNMERGED),
        ),
        "emnist/letters": tuple(string.ascii_lowercase),
        **dict.fromkeys(("emnist/digits", "emnist/mnist"), _DIGITS),
        **dict.fromkeys(("cifar10", "cifar10_1", "cifar10_1/v4", "cifar10_1/v6"), _CIFAR10),
        "cifar100": _CIFAR100,
        "svhn_cropped": _DIGITS,
        "stl10": _words("airplane bird car cat deer dog horse monkey ship truck"),
        # As in medmnist 3.0.2
        "pathmnist": (
            *("adipose", "background", "debris", "lymphocytes", "mucus", "smooth muscle"),
            *("normal colon mucosa", "cancer-associated stroma"),
            "colorectal adenocarcinoma epithelium",
        ),
        "dermamnist": (
            "actinic keratoses and intraepithelial carcinoma",
            *("basal cell carcinoma", "benign keratosis-like lesions", "dermatofibroma"),
            *("melanoma", "melanocytic nevi", "vascular lesions"),
        ),
        "octmnist": (
            *("choroidal neovascularization", "diabetic macular edema", "drusen", "normal"),
        ),
        "pneumoniamnist": ("normal", "pneumonia"),
        "retinamnist": _DIGITS[:5],
        "breastmnist": ("malignant", "normal, benign"),
        "bloodmnist": (
            *("basophil", "eosinophil", "erythroblast"),
            "immature granulocytes(myelocytes, metamyelocytes and promyelocytes)",
            *("lymphocyte", "monocyte", "neutrophil", "platelet"),
        ),
        "tissuemnist": (
            *("Collecting Duct, Connecting Tubule", "Distal Convoluted Tubule"),
            *("Glomerular endothelial cells", "Interstitial endothelial cells", "Leukocytes"),
            *("Podocytes", "Proximal Tubule Segments", "Thick Ascending Limb"),
        ),
        **dict.fromkeys(("organamnist", "organcmnist", "organsmnist"), _ORGANS),
    }
)
