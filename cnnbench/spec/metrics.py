"""The names of metrics in sentences and tables, and their values as text."""

import math

_SHORT = {"mse": "MSE", "mae": "MAE", "psnr": "PSNR", "ssim": "SSIM", "kl": "KL divergence"}


def words(metric: str) -> str:
    """A metric's name in a sentence.

    >>> words("top5_accuracy"), words("kl"), words("test_mse")
    ('top5 accuracy', 'KL divergence', 'test MSE')
    """
    return " ".join(_SHORT.get(word, word) for word in metric.split("_"))


def heading(metric: str) -> str:
    """A metric's name above a column or at the start of a sentence.

    >>> heading("code_accuracy"), heading("ssim")
    ('Code accuracy', 'SSIM')
    """
    name = words(metric)
    return name[:1].upper() + name[1:]


def is_fraction(metric: str) -> bool:
    """Whether a metric is a share, which is shown in percent."""
    return metric.endswith("accuracy")


def metric_text(metric: str, value: float, digits: int | None = None) -> str:
    """One value of a metric.

    >>> metric_text("accuracy", 0.98974), metric_text("loss", 0.012345)
    ('98.97 %', '0.01235')
    >>> metric_text("accuracy", 0.98974, 1), metric_text("loss", 0.012345, 3)
    ('99.0 %', '0.012')
    """
    if math.isnan(value):
        return "NaN"
    if is_fraction(metric):
        return f"{100 * value:.{2 if digits is None else digits}f} %"
    return f"{value:#.4g}".removesuffix(".") if digits is None else f"{value:.{digits}f}"
