"""The roles of arrays, such as ``train_images``, by their names and those of files."""

import re

from cnnbench.data.catalog import CLASS_NAMES, KINDS

_SPLIT_WORDS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "validation"),
    **dict.fromkeys(("test", "testing", "te"), "test"),
}
_KIND_WORDS = {
    **dict.fromkeys(
        ("x", "image", "images", "img", "imgs", "data", "pixels", "features"), "images"
    ),
    **dict.fromkeys(("y", "label", "labels", "target", "targets"), "labels"),
}


def role_of(name: str) -> str:
    """The split and kind that the name of an array or file denotes; empty if it has no split.

    >>> role_of("x_train"), role_of("val_labels"), role_of("testImages"), role_of("train-00000")
    ('train_images', 'validation_labels', 'test_images', 'train')
    >>> role_of("Xtrain"), role_of("weights")
    ('train_images', '')
    """
    split, kind = _words(name)
    return f"{split}_{kind}" if split and kind else split


def recognized(name: str, split: str) -> str:
    """Role of an array by its name; empty if it has none, or is of another split."""
    if name.lower() in {CLASS_NAMES, "label_names", "target_names"}:
        return CLASS_NAMES
    own, kind = _words(name)
    return f"{own or split or 'train'}_{kind}" if kind and (not split or own in {"", split}) else ""


def in_split(name: str, split: str) -> str:
    """Role of an array of one of `KINDS` in a split; other names stay as they are."""
    return f"{split}_{name}" if name in KINDS else name


def split_of(role: str) -> str:
    """The split of a role."""
    return role.partition("_")[0]


def _words(name: str) -> tuple[str, str]:
    """Split and kind in a name; empty where it has none, or several."""
    words = re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower())
    words = [part for word in words for part in _glued(word)]
    splits = {_SPLIT_WORDS[word] for word in words if word in _SPLIT_WORDS}
    kinds = {_KIND_WORDS[word] for word in words if word in _KIND_WORDS}
    return _only(splits), _only(kinds)


def _glued(word: str) -> tuple[str, ...]:
    """Parts of a name without a separator, such as xtrain or testy; else the word."""
    for kind, split in ((word[:1], word[1:]), (word[-1:], word[:-1])):
        if kind in {"x", "y"} and split in _SPLIT_WORDS:
            return kind, split
    return (word,)


def _only(found: set[str]) -> str:
    return next(iter(found)) if len(found) == 1 else ""
