"""Names in PyTorch, Keras and Flax that cnnbench knows under other names, or does not support."""

from collections.abc import Mapping

from cnnbench.errors import KnownNames, normalized
from cnnbench.layers import OPERATIONS
from cnnbench.spec.metrics import METRICS, NO_METRICS

_Words = Mapping[str, tuple[str, ...]]  # our name, and its names in other libraries

_OPERATIONS: _Words = {name: op.aliases for name, op in OPERATIONS.items() if op.aliases}
_ACTIVATIONS: _Words = {
    "linear": ("identity", "none"),
    "silu": ("swish",),
    "sigmoid": ("logistic",),
    "leaky_relu": ("lrelu",),
    "hard_silu": ("hard_swish", "hardswish", "h_swish"),
    "gelu_exact": ("gelu_erf",),
    "gelu": ("gelu_tanh", "gelu_new", "gelu_pytorch_tanh"),
    "relu": ("rectify", "rectified_linear"),
}
_INITS: _Words = {
    "glorot_uniform": ("xavier", "xavier_uniform", "glorot"),
    "glorot_normal": ("xavier_normal",),
    "he_uniform": ("kaiming", "kaiming_uniform", "he"),
    "he_normal": ("kaiming_normal",),
    "lecun_normal": ("lecun",),
    "zeros": ("zero", "zeros_init"),
    "dirac": ("identity", "eye", "Dirac"),
    "whitening": ("whiten", "zca", "pca"),
    "normal": ("random_normal", "gaussian"),
    "truncated_normal": ("trunc_normal",),
    "constant": ("ones", "fill"),
}
_OPTIMIZERS: _Words = {
    "sgd": ("nesterov", "momentum", "nag", "gradient_descent", "nesterov_momentum"),
    "adam": ("nadam",),
    "adamw": ("nadamw",),
    "radam": ("rectified_adam",),
}
_SCHEDULES: _Words = {
    "constant": ("ConstantLR", "fixed", "none"),
    "cosine": ("CosineAnnealingLR", "CosineDecay", "cosine_annealing", "warmup_cosine"),
    "linear": ("LinearLR", "linear_decay"),
    "exponential": ("ExponentialLR", "ExponentialDecay", "exp"),
    "step": ("StepLR", "step_decay"),
    "multi_step": ("MultiStepLR", "piecewise_constant", "PiecewiseConstantDecay"),
    "one_cycle": ("OneCycleLR", "1cycle", "cosine_onecycle"),
    "polynomial": ("PolynomialLR", "PolynomialDecay", "poly"),
}
_LOSSES: _Words = {
    "cross_entropy": (
        "CrossEntropyLoss",
        "categorical_crossentropy",
        "sparse_categorical_crossentropy",
        "softmax_cross_entropy",
        "nll",
        "nll_loss",
        "NLLLoss",
        "log_loss",
    ),
    "mse": ("MSELoss", "mean_squared_error", "l2", "l2_loss", "squared_error"),
    "mae": ("L1Loss", "mean_absolute_error", "l1", "absolute_error"),
    "binary_cross_entropy": ("bce", "BCELoss", "binary_crossentropy"),
    "binary_cross_entropy_with_logits": (
        "BCEWithLogitsLoss",
        "bce_with_logits",
        "sigmoid_cross_entropy",
        "sigmoid_binary_cross_entropy",
        "MultiLabelSoftMarginLoss",
    ),
    "huber": ("HuberLoss", "huber_loss", "smooth_l1", "SmoothL1Loss", "smooth_l1_loss"),
}
_KEYS: _Words = {
    "op": ("type", "layer", "operation", "class", "class_name"),
    "repeat": ("repeats", "times", "number", "num_repeats", "num_blocks", "n_blocks", "count"),
    "inputs": ("input", "bottom", "from", "inbound_nodes", "src", "parents"),
    "filters": (
        "n_filters",
        "num_filters",
        "out_channels",
        "channels",
        "features",
        "num_output",
        "out_features",
        "units",
    ),
    "units": ("out_features", "features", "num_units", "n_units", "hidden", "filters"),
    "kernel": ("kernel_size", "filter_size", "ksize", "kernel_shape", "size"),
    "size": (
        "pool_size",
        "window",
        "window_shape",
        "kernel_size",
        "kernel",
        "factor",
        "scale",
        "scale_factor",
        "length",
    ),
    "stride": ("strides", "window_strides", "step", "subsample"),
    "padding": ("pad", "border_mode"),
    "activation": ("act", "act_fn", "nonlinearity", "activation_fn", "function"),
    "use_bias": ("bias",),
    "heads": ("num_heads", "n_heads", "nhead", "number_of_heads"),
    "groups": ("num_groups", "feature_group_count", "group", "param_groups", "parameter_groups"),
    "dilation": ("dilation_rate", "dilations", "kernel_dilation"),
    "init": ("kernel_initializer", "kernel_init", "weight_init", "W", "initializer"),
    "per_channel": ("num_parameters", "shared_axes"),
    "bias_init": ("bias_initializer", "b"),
    "rate": (
        "p",
        "prob",
        "drop_prob",
        "drop_rate",
        "probability",
        "dropout",
        "gamma",
        "decay_rate",
    ),
    "stddev": ("std", "sigma", "scale", "noise"),
    "kl_weight": ("beta", "kl_loss_weight"),
    "codes": ("num_embeddings", "num_codes", "codebook_size", "K"),
    "commitment": ("beta", "commitment_cost", "commitment_loss_weight"),
    "shape": ("target_shape", "new_shape", "dims"),
    "epsilon": ("eps",),
    "trainable": ("freeze", "frozen", "requires_grad"),
    "weights": ("share", "shared", "share_weights", "weight_sharing", "reuse"),
    "scale": ("use_scale",),
    "center": ("use_bias",),
    "order": ("axes", "perm", "permutation", "dims"),
    "start": ("begin", "offset", "from"),
    "momentum": ("decay", "mu"),
    "learning_rate": (
        *("lr", "eta", "step_size", "base_lr", "init_value", "max_lr", "peak_value"),
        *("lr_mult", "lr_scale", "lr_multiplier"),
    ),
    "adam_learning_rate": ("adam_lr", "adamw_lr", "aux_lr", "adamw_learning_rate"),
    "ns_steps": ("backend_steps", "newton_schulz_steps", "ns_iterations"),
    "b1": ("beta1", "beta_1", "betas", "beta"),
    "b2": ("beta2", "beta_2"),
    "eps": ("epsilon",),
    "decay": ("rho", "alpha"),
    "rho": ("decay", "alpha"),
    "label_smoothing": ("smoothing", "label_smooth", "smooth_labels"),
    "class_weights": ("class_weight", "loss_weight", "loss_weights"),
    "pos_weight": ("pos_weights", "positive_weight", "positive_weights", "scale_pos_weight"),
    "weight_decay": ("wd", "decoupled_weight_decay", "l2", "l2_reg", "weight_decay_rate"),
    "evaluation": ("eval", "testing", "tta", "test_time_augmentation"),
    "early_stopping": ("early_stop", "EarlyStopping", "stop_early", "earlystopping"),
    "restore_best": (
        "restore_best_weights",
        "save_best_only",
        "load_best_model_at_end",
        "keep_best",
        "best_checkpoint",
    ),
    "patience": ("early_stopping_patience", "stop_patience", "n_iter_no_change"),
    "min_delta": ("min_improvement", "early_stopping_threshold", "tol"),
    "metric": ("monitor", "metric_for_best_model", "eval_metric"),
    "ema": (
        "use_ema",
        "ema_decay",
        "model_ema",
        "model_ema_decay",
        "ema_momentum",
        "exponential_moving_average",
    ),
    "clip": ("grad_clip", "gradient_clipping", "clipping", "clip_grad"),
    "norm": (
        "clip_grad_norm",
        "clip_norm",
        "max_grad_norm",
        "global_clipnorm",
        "gradient_clip_val",
        "clip_by_global_norm",
    ),
    "value": (
        *("clipvalue", "clip_value", "clip_grad_value", "fill"),
        *("init", "init_values", "scale"),
    ),
    "warmup_epochs": ("warmup", "warm_up", "warmup_steps"),
    "final_fraction": ("alpha", "eta_min", "end_value", "min_lr", "final_lr"),
    "every": ("step_size", "period"),
    "milestones": ("boundaries", "boundaries_and_scales"),
    "pct_start": ("warmup_fraction", "warmup_ratio", "warmup_percent"),
    "power": ("exponent",),
    "factor": ("gamma", "rate", "decay_rate"),
    "epochs": ("num_epochs", "n_epochs", "max_epochs", "nb_epoch", "num_train_epochs"),
    "batch_size": ("batch", "bs", "minibatch", "train_batch_size", "batchsize"),
    "optimizer": ("opt", "optim", "optimiser", "solver", "update", "updates"),
    "schedule": ("scheduler", "lr_scheduler", "lr_schedule", "sched", "lr_policy"),
    "precision": ("dtype", "param_dtype", "amp", "mixed_precision", "half"),
    "loss": ("criterion", "objective", "loss_fn"),
    "metrics": ("metric",),
    "train": ("training", "trainer", "fit", "num_train", "n_train"),
    "validation": ("val", "valid", "dev", "num_validation"),
    "test": ("num_test", "n_test"),
    "train_examples": ("limit", "max_samples", "num_samples", "num_examples", "n_samples"),
    "classes": ("class_names", "class_list", "keep_classes", "only_classes", "include_classes"),
    "subset": (
        *("train_size", "train_subset", "subset_size", "subsample", "subset_fraction"),
        *("data_fraction", "limit_train_batches"),
    ),
    "per_class": (
        *("samples_per_class", "images_per_class", "examples_per_class", "n_per_class"),
        *("shots", "n_shot", "k_shot"),
    ),
    "label_noise": ("noisy_labels", "noise_rate", "corrupt_prob", "label_corruption", "flip_y"),
    "imbalance": ("long_tail", "long_tailed", "imb_factor", "imbalanced"),
    "ratio": ("imbalance_ratio", "imbalance_factor", "rho"),
    "kind": ("noise_type", "imb_type", "noise_mode"),
    "augment": (
        "augmentation",
        "augmentations",
        "transform",
        "transforms",
        "data_augmentation",
        "random_augment",
        "tta",
        "test_time_augmentation",
    ),
    "rand_augment": ("RandAugment", "randaug", "auto_augment", "autoaugment", "aa"),
    "num_ops": ("n", "num_layers"),
    "magnitude": ("m", "level"),
    "random_crop": ("RandomCrop", "crop", "random_resized_crop"),
    "random_flip": ("RandomHorizontalFlip", "flip", "hflip", "horizontal_flip", "RandomFlip"),
    "random_translation": ("RandomTranslation", "translate", "random_shift", "RandomAffine"),
    "random_rotation": ("RandomRotation", "rotate", "rotation"),
    "random_erasing": ("RandomErasing", "cutout", "erase", "reprob"),
    "pixel_scale": ("rescale", "scale"),
    "normalize": ("normalization", "normalise", "standardize", "mean", "z_score"),
    "normalize_targets": (
        *("normalize_y", "standardize_targets", "target_normalizer", "target_transform"),
        *("normalise_targets", "scale_targets", "target_scaler"),
    ),
    "splits": ("sizes",),
    "split": ("random_split", "train_test_split", "holdout", "shuffle_split"),
    "stratified": ("stratify",),
    "by_seed": ("per_seed", "resample", "resampling"),
    "folds": ("n_splits", "num_folds", "n_folds", "k_folds", "kfold", "cv", "cross_validation"),
    "offline": ("fallback", "stand_in"),
    "dataset": ("data", "datasets", "images"),
    "model": ("network", "net", "architecture", "arch", "nn"),
    "layers": ("graph", "modules", "blocks", "nodes", "params", "pattern", "match"),
    "output": ("outputs", "head", "out"),
    "python": ("module", "class", "target", "_target_"),
    "args": ("kwargs", "params", "arguments", "config"),
    "extends": ("extend", "base", "parent", "defaults", "inherits", "_base_"),
    "seeds": ("seed", "random_seed", "random_state", "num_seeds"),
    "checkpoint": ("checkpoints", "ckpt", "save"),
    "every_steps": ("every_n_train_steps", "save_steps", "save_freq"),
    "streaming": ("stream", "lazy", "in_memory"),
    "keep": ("max_to_keep", "save_top_k", "save_total_limit"),
    "name": ("id", "experiment", "run_name"),
    "title": ("description", "label"),
}
# Options that make one of ours the same as a similar one of another library.
_WITH = {
    "nadam": "nesterov: true",
    "nadamw": "nesterov: true",
    "momentum": "nesterov: false",
    "gradient_descent": "momentum: 0",
}
# Well-known names that are not supported. Remove a name from these lists when it is added;
# operations are removed automatically if a class in `layers` has the name or alias.
_NO_OPERATIONS = (
    "cross_attention transformer layer_norm"
    " LayerNormalization group_norm GroupNormalization instance_norm InstanceNorm2d rms_norm"
    " InstanceNormalization"
    " weight_norm spectral_norm lrn LocalResponseNorm depthwise depthwise_conv depthwise_conv2d"
    " DepthwiseConv2D SeparableConv2D separable_conv separable_conv2d grouped_conv group_conv"
    " pointwise dilated_conv dilation groups atrous_conv deformable_conv locally_connected"
    " conv1d conv3d ReflectionPad2d multiply"
    " mul subtract maximum minimum average dot matmul einsum global_max_pool GlobalMaxPooling2D"
    " AdaptiveMaxPool2d lp_pool max_unpool fractional_max_pool pixel_shuffle depth_to_space"
    " space_to_depth squeeze unsqueeze embedding lstm gru rnn SimpleRNN"
    " recurrent bidirectional lambda maxout dropblock drop_path stochastic_depth spatial_dropout"
    " SpatialDropout2D dropout2d alpha_dropout AlphaDropout log_softmax"
    " squeeze_excite squeeze_excitation SEModule inception capsule spatial_transformer split chunk"
    " stack random_flip random_crop augmentation mean max gather scatter sub sep_conv"
    " bilinear"
)
_NO_ACTIVATIONS = (
    "celu hard_tanh hardtanh prelu rrelu softsign"
    " log_sigmoid log_softmax exponential exp tanhshrink softshrink hardshrink threshold glu"
    " swiglu geglu squareplus maxout sin sine square crelu step quick_gelu bilinear softmax"
)
_NO_INITS = "uniform random_uniform delta_orthogonal sparse lecun_truncated"
_NO_OPTIMIZERS = (
    "adamaxw adan adabelief adafactor adamp amsgrad lbfgs shampoo soap"
    " sophia prodigy yogi novograd rprop ftrl asgd sm3 fromage polyak_sgd noisy_sgd sign_sgd sam"
    " lookahead sparse_adam conjugate_gradient newton adagrad_da schedule_free"
)
_NO_SCHEDULES = (
    "plateau reduce_lr_on_plateau ReduceLROnPlateau cyclic CyclicLR cosine_restarts"
    " CosineAnnealingWarmRestarts sgdr inverse_sqrt rsqrt noam inverse_time multiplicative"
    " lambda LambdaLR warmup chained sequential"
)
_NO_LOSSES = (
    "hinge HingeEmbeddingLoss focal kl_divergence kl_div triplet contrastive"
    " cosine_similarity ctc dice iou label_smoothing poisson margin nce info_nce ssim psnr elbo"
    " perceptual wasserstein log_cosh mape msle"
)
_NO_KEYS = (
    "input_dilation depth_multiplier output_padding padding_mode data_format"
    " kernel_regularizer bias_regularizer activity_regularizer regularizer kernel_constraint"
    " affine elementwise_affine track_running_stats weight_norm spectral_norm"
    " noise_shape axis dim alpha negative_slope amsgrad centered max_norm"
    " accumulate accumulate_steps gradient_accumulation"
    " accumulate_grad_batches swa"
    " sample_weight shuffle num_workers callbacks compile distributed"
    " strategy pretrained dropout whitening image_size"
    " input_shape num_classes cache prefetch download"
    " color_jitter trivial_augment augmix gaussian_blur random_perspective random_zoom"
    " random_grayscale mosaic"
)


_DEPTHWISE = "use a conv with groups: depthwise"
_GATES = "use a global_avg_pool, two dense layers and a multiply"
_INSTANCES = "use a group_norm with one group per channel"
_NO_AFFINE = "use scale: false and center: false"
# Alternatives to some of them.
_ALTERNATIVES = {
    "depthwise": _DEPTHWISE,
    "depthwise_conv": _DEPTHWISE,
    "depthwise_conv2d": _DEPTHWISE,
    "separable_conv": f"{_DEPTHWISE}, and one with kernel: 1",
    "separable_conv2d": f"{_DEPTHWISE}, and one with kernel: 1",
    "sep_conv": f"{_DEPTHWISE}, and one with kernel: 1",
    "grouped_conv": "use a conv with groups: 2",
    "group_conv": "use a conv with groups: 2",
    "pointwise": "use a conv with kernel: 1",
    "groups": "use a conv with groups: 2",
    "dilation": "use a conv with dilation: 2",
    "dilated_conv": "use a conv with dilation: 2",
    "atrous_conv": "use a conv with dilation: 2",
    "log_softmax": "leave the output linear (the loss applies it)",
    "instance_norm": _INSTANCES,
    "InstanceNorm2d": _INSTANCES,
    "InstanceNormalization": _INSTANCES,
    "affine": _NO_AFFINE,
    "elementwise_affine": _NO_AFFINE,
    "dropout": "add a layer with op: dropout",
    "prelu": "add a layer with op: prelu",
    "label_smoothing": "set train.label_smoothing",
    "squeeze_excite": _GATES,
    "squeeze_excitation": _GATES,
    "SEModule": _GATES,
    "transformer": "repeat a block of layer_norm, attention and 1x1 conv, as in zoo/vit_b_16",
    "squeeze": "use a reshape",
    "unsqueeze": "use a reshape",
    "asymmetric": "use to: {cat: dog} instead of kind",
    "asym": "use to: {cat: dog} instead of kind",
    "random_flip": "set dataset.augment",
    "random_crop": "set dataset.augment",
    "augmentation": "set dataset.augment",
}


def _still_missing(words: str) -> str:
    """Words of a list that are not the name or an alias of an operation."""
    ours = {normalized(word) for name, op in OPERATIONS.items() for word in (name, *op.aliases)}
    return " ".join(word for word in words.split() if normalized(word) not in ours)


PYTHON = "write the network as a Python class (model.python)"


def alternative(word: str) -> str:
    """Alternative to an unsupported feature; empty if there is none."""
    return next(
        (way for name, way in _ALTERNATIVES.items() if normalized(name) == normalized(word)), ""
    )


def alternative_or_python(word: str) -> str:
    """Alternative to an unsupported part of a network, which can always be written in Python."""
    way = alternative(word)
    return f"{way}, or {PYTHON}" if way else PYTHON


OPERATION = KnownNames(_OPERATIONS, _still_missing(_NO_OPERATIONS))
ACTIVATION = KnownNames(_ACTIVATIONS, _NO_ACTIVATIONS)
INIT = KnownNames(_INITS, _NO_INITS)
OPTIMIZER = KnownNames(_OPTIMIZERS, _NO_OPTIMIZERS, _WITH)
SCHEDULE = KnownNames(_SCHEDULES, _NO_SCHEDULES)
LOSS = KnownNames(_LOSSES, _NO_LOSSES)
_METRICS = {m.name: m.other_names for m in METRICS.values() if m.tasks}
_OF_TEST = {f"test_{name}": tuple(f"test_{w}" for w in ws) for name, ws in _METRICS.items()}
_LOSS = {"loss": ("val_loss", "validation_loss")}
METRIC = KnownNames(_METRICS | _OF_TEST | _LOSS, NO_METRICS)
KEY = KnownNames(_KEYS, _NO_KEYS)
FAMILY = KnownNames(
    {"torch": ("pytorch",), "keras": ("tensorflow", "tf"), "flax": ("nnx", "jax", "linen")}
)
PRECISION = KnownNames(
    {"float32": ("fp32", "single", "full"), "bfloat16": ("bf16",)},
    "float16 fp16 half mixed_float16 float64 fp64 double float8 fp8 tf32 int8",
)
TASK = KnownNames(
    {
        "classify": ("classification", "classifier", "multiclass"),
        "reconstruct": ("reconstruction", "autoencoder", "autoencode", "ae", "denoise"),
        "regress": ("regression", "regressor", "continuous"),
        "multilabel": (
            "multi_label",
            "multilabel_classification",
            "multi_label_classification",
            "multilabel_indicator",
        ),
    },
    "segment segmentation detect detection generate generation",
)
KIND = KnownNames(  # of label noise and imbalance
    {
        "symmetric": ("sym", "uniform"),
        "pair": ("pairflip", "pair_flip"),
        "long_tailed": ("exp", "exponential", "long_tail", "lt"),
    },
    "asymmetric asym instance_dependent linear",
)
OTHER = KnownNames({})
