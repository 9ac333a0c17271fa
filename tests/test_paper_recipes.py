"""Each paper's recipe, value by value: what its launcher has, what is composed here, and why where they differ."""

from typing import Any, NamedTuple

import pytest
from omegaconf import OmegaConf

from alignbench.configuration.compose import composed


class Setting(NamedTuple):
    """One value of a recipe.

    Attributes:
        key: where it is in the configuration.
        theirs: the value of the launcher, or of the code's default where the launcher has none.
        ours: the value that is composed.
        reason: why the two differ; empty where they do not.
    """

    key: str
    theirs: Any
    ours: Any
    reason: str = ""


def same(**values: Any) -> list[Setting]:
    """Return settings with one value on both sides; `__` in a name stands for a dot."""
    return [Setting(name.replace("__", "."), value, value) for name, value in values.items()]


BF16 = Setting(
    "train.mixed_precision", "fp16", "bf16", "bfloat16 has the range of float32: no gradient scaling, no overflow"
)
NO_FLIP = Setting(
    "train.random_flip", True, False, "prompts say left and right; train.random_flip=true flips a pair together"
)
PAPERS_BETA = Setting("method.beta", 5000, 2000, "the paper trains SD 1.5 at 2000; its launcher keeps the default")
SFT_START = Setting("model.policy", "sd15-sft", None, "the code comes without them: model.policy=FOLDER")


def micro(theirs: int, ours: int) -> Setting:
    return Setting("train.micro_batch_size", theirs, ours, "how an update is divided does not change it")


ADAMW = same(train__optimizer___target_="torch.optim.AdamW", train__optimizer__weight_decay=1e-2)
ADAMW_8BIT = same(train__optimizer___target_="bitsandbytes.optim.AdamW8bit", train__optimizer__weight_decay=1e-2)
ADAFACTOR = same(
    train__optimizer___target_="transformers.Adafactor",
    train__optimizer__scale_parameter=False,
    train__optimizer__relative_step=False,
    train__optimizer__clip_threshold=1.0,
    train__optimizer__weight_decay=1e-2,
)
SHARED = same(train__tuning="full", train__max_grad_norm=1.0, train__crop="centre", data__posterior="sample")
WARM_UP = same(train__lr_scheduler="constant_with_warmup", method__prompt_dropout=0.2)
SD15 = same(model__resolution=512)
SDXL = same(model__resolution=1024, train__gradient_checkpointing=True, train__size_conditioning="square")


def diffusion_dpo(rate: float, batch: int, updates: int, warm_up: int) -> list[Setting]:
    """Return what the codes that grew from Diffusion-DPO's share: --scale_lr multiplies the rate by the batch."""
    return [
        *SHARED,
        *WARM_UP,
        Setting("train.learning_rate", rate * batch, rate * batch),
        *same(train__total_batch_size=batch, train__max_train_steps=updates, train__lr_warmup_steps=warm_up),
        NO_FLIP,
    ]


UPSTREAM_INVERSION = same(
    method__inversion__mode="upstream_020",
    method__inversion__eval_mode=False,
    method__inversion__inverter="policy",
)
SMPO = [
    *UPSTREAM_INVERSION,
    *same(method__gamma=10, method__labels="reward", method__inversion__average=True),
    *same(method__inversion__num_renoise=1, method__inversion__renoise_at="every", method__inversion__eta=0.0),
    Setting(
        "method.score_range",
        [0.11543526500463486, 0.28201571106910706],
        None,
        "these are PickScore's on Pick-a-Pic, and the scorer is chosen by reward=NAME",
    ),
    BF16,
]
INPO = [
    *UPSTREAM_INVERSION,
    *same(method__inversion__num_steps=10, method__inversion__num_renoise=0, method__inversion__eta=0.1),
    BF16,
]
SPO = [
    *same(train__tuning="lora", train__max_grad_norm=1.0, train__optimizer___target_="torch.optim.AdamW"),
    *same(train__optimizer__weight_decay=1e-4, train__lr_scheduler="constant", train__lr_warmup_steps=0),
    *same(method__beta=10, method__clip_range=0.1, method__num_rollout_steps=20, method__rollout_guidance_scale=5.0),
    *same(method__kernel__kind="ddim", method__kernel__noise=1.0, method__window__first=4),
    *same(method__detach_unconditional=False, method__log_prob_reduction="mean"),
    Setting("method.logit_scale", 1, 100, "its judge's scores have that factor already; those of PickScore do not"),
    BF16,
]
TF32 = Setting("train.tf32", True, False, "sdpo and dpo are to differ in their loss alone")

# by the method and the model that are typed; each with the file that its values were read in
PAPERS: dict[str, list[Setting]] = {
    # SalesforceAIResearch/DiffusionDPO: launchers/sd15.sh, train.py
    "dpo sd15": [*diffusion_dpo(1e-8, 2048, 2000, 500), *SD15, *ADAMW, PAPERS_BETA, BF16, micro(1, 8)],
    # launchers/sdxl.sh; train.py takes Adafactor whenever --sdxl is given
    "dpo sdxl": [
        *diffusion_dpo(1e-8, 2048, 2000, 200), *SDXL, *ADAFACTOR, *same(method__beta=5000), BF16, micro(1, 2),
    ],
    # the same launchers with --sft
    "sft sd15": [*diffusion_dpo(1e-8, 2048, 2000, 500), *SD15, *ADAMW, BF16, micro(1, 16)],
    "sft sdxl": [*diffusion_dpo(1e-8, 2048, 2000, 200), *SDXL, *ADAFACTOR, BF16, micro(1, 4)],
    # AIDC-AI/Diffusion-SDPO: scripts/train/sd15_diffusion_dpo.sh
    "sdpo sd15": [
        *diffusion_dpo(1e-8, 2048, 2000, 500), *SD15, *ADAMW,
        *same(method__beta=5000, method__safeguard=0.9, train__mixed_precision="bf16"),
        *same(train__micro_batch_size=8), TF32,
    ],
    # scripts/train/sdxl_diffusion_dpo.sh: a tenth of the rate
    "sdpo sdxl": [
        *diffusion_dpo(1e-9, 2048, 2000, 500), *SDXL, *ADAFACTOR,
        *same(method__beta=5000, method__safeguard=0.6, train__mixed_precision="bf16"),
        TF32, micro(8, 2),
    ],
    # JaydenLyh/SmPO: examples/sd15.sh, train.py
    "smpo_upstream sd15": [
        *diffusion_dpo(1e-8, 1024, 200, 100), *SD15, *ADAMW, *SMPO,
        *same(method__beta=2000, method__inversion__num_steps=5), SFT_START, micro(1, 8),
    ],
    # examples/sdxl.sh
    "smpo_upstream sdxl": [
        *diffusion_dpo(1e-8, 1024, 200, 100), *SDXL, *ADAFACTOR, *SMPO,
        *same(method__beta=5000, method__inversion__num_steps=10, model__policy=None), micro(1, 2),
    ],
    # JaydenLyh/InPO: examples/sd15.sh, train.py
    "inpo_upstream sd15": [
        *diffusion_dpo(1e-8, 1024, 400, 200), *SD15, *ADAMW, *INPO, *same(method__beta=2000), SFT_START, micro(1, 8),
    ],
    # examples/sdxl.sh
    "inpo_upstream sdxl": [
        *diffusion_dpo(1e-8, 1024, 400, 200), *SDXL, *ADAFACTOR, *INPO, *same(method__beta=5000, model__policy=None),
        micro(1, 2),
    ],
    # jacklishufan/diffusion-kto: exps/example.sh, train_kto_sd_v1.5.py
    "kto sd15": [
        *SHARED, *WARM_UP, *SD15, *ADAMW_8BIT,
        *same(method__beta=1000, method__utility="kt", method__q_mode="batch", method__desirable_share=0.8),
        *same(train__learning_rate=1e-7),
        Setting("train.lr_warmup_steps", 200, 1000, "the paper has 1000 of 10000 updates"),
        Setting("train.max_train_steps", 20000, 10000, "the paper's"),
        Setting("train.total_batch_size", 2048, 8, "the author calls the example's 256 accumulated batches an error"),
        Setting("train.micro_batch_size", 2, 8, "the reference point is a mean over 4 GPUs; one GPU takes all 8"),
        Setting("train.gradient_checkpointing", True, False, "changes memory and time, not the update"),
        BF16, NO_FLIP,
    ],
    # mapo-t2i/mapo: README.md, on the 8 GPUs that it names, args.py
    "mapo sdxl": [
        *SHARED, *ADAMW_8BIT,
        *same(model__resolution=1024, method__beta=0.1, method__snr_value=0.5, method__margin_scale=1000),
        *same(method__prompt_dropout=0.0, train__size_conditioning="true_size", train__learning_rate=1e-5),
        *same(train__lr_scheduler="constant", train__lr_warmup_steps=0, train__max_train_steps=2000),
        *same(train__total_batch_size=8 * 2 * 8, train__gradient_checkpointing=True),
        BF16, NO_FLIP, micro(8, 4),
    ],
    # Tencent-Hunyuan/SRPO: scripts/finetune/SRPO_training_hpsv2.sh, fastvideo/SRPO.py
    "srpo_released flux": [
        *same(model__resolution=720, model__sampling_resolution=1024, model__num_inference_steps=50),
        *same(model__guidance_scale=3.5, model__adapter__train_guidance_scale=3.5),
        *same(model__adapter__max_sequence_length=512),
        *same(method__num_rollout_steps=25, method__rollout_guidance_scale=1.0, method__rollout_shift=3.0),
        *same(method__noise_source="rollout", method__share_noise=True, method__branches=["denoise", "inversion"]),
        *same(method__window__ends=[5, 25], method__window__num_inference_steps=50, method__window__shift=3.0),
        *same(method__window__num_levels=1000, method__window__known_ratio=0.9, method__window__edge=5),
        *same(method__discount_denoise=[0.1, 0.25], method__discount_inversion=[0.3, 0.01], method__margin=0.7),
        *same(method__positive_words=["Natural-lighting", "Detail", "Detailed", "Real"]),
        *same(method__negative_words=["Concept art", "Painting", "Anime", "Flat", "Oil"]),
        *same(train__tuning="full", train__weights_dtype="float32", train__mixed_precision="bf16", train__tf32=True),
        *same(train__optimizer___target_="torch.optim.AdamW", train__optimizer__betas=[0.9, 0.999]),
        *same(train__optimizer__eps=1e-8, train__optimizer__weight_decay=1e-4, train__max_grad_norm=0.1),
        *same(train__learning_rate=5e-6, train__lr_warmup_steps=0, train__ema_decay=None),
        *same(train__total_batch_size=32, train__micro_batch_size=1, train__gradient_checkpointing=True),
        Setting("train.max_train_steps", 20, 19, "--checkpointing_steps 20 saves and stops training at 19 updates"),
        Setting("train.lr_scheduler", "constant_with_warmup", "constant", "without warm-up they are the same"),
        Setting("train.decode_checkpointing", False, True, "changes memory and time, not the update"),
        Setting("model.adapter.vae_dtype", "bfloat16", None, "the default, float32, decodes more exactly"),
    ],
    # THUDM/ImageReward: ReFL.py; the batch is the paper's
    "refl sd15": [
        *SD15, *ADAMW, *same(train__tuning="full", train__max_grad_norm=1.0, train__learning_rate=1e-5),
        *same(train__total_batch_size=64, train__max_train_steps=100, train__lr_scheduler="constant"),
        *same(method__num_rollout_steps=40, method__earliest=30 / 40, method__rollout_guidance_scale=1.0),
        *same(method__reward_weight=1e-3, method__margins__image_reward=2.0, method__min_sigma=0.0),
        Setting("train.gradient_checkpointing", False, True, "changes memory and time, not the update"),
    ],
    # mihirp1998/AlignProp: config/alignprop_config.py, hps.sh; adapters of TRL's pipeline
    "alignprop sd15": [
        *SD15, *same(train__optimizer___target_="torch.optim.AdamW", train__optimizer__weight_decay=1e-4),
        *same(train__tuning="lora", train__lora_rank=4, train__lora_alpha=4, train__learning_rate=1e-3),
        *same(train__max_train_steps=25, train__max_grad_norm=1.0, train__gradient_checkpointing=True),
        *same(method__num_rollout_steps=50, method__rollout_guidance_scale=5.0, method__reward_weight=0.01),
        *same(method__truncation__draw="gaussian", method__truncation__mean=42 / 50, method__truncation__std=5 / 50),
        Setting("train.total_batch_size", 4 * 8 * 8, 128, "its comment names 128 as the batch that was tested"),
        BF16, micro(8, 2),
    ],
    # RockeyCoss/SPO: configs/basic_config.py, configs/spo_sd-v1-5_4k-prompts_num-sam-4_10ep_bs10.py, on 4 GPUs
    "spo sd15": [
        *SD15, *SPO, *same(method__group_size=4, method__threshold=0.3, method__window__stop=20),
        *same(train__lora_rank=4, train__lora_alpha=4, train__learning_rate=6e-5, train__total_batch_size=10 * 4 * 4),
        *same(train__micro_batch_size=10, method__rollout_batch_size=10 * 4),
        Setting("method.updates_per_round", 8, 10, "a GPU has 10 prompts, and each update as many of them"),
        Setting("train.max_train_steps", 8000, 10000, "10 epochs of 4,000 prompts in rounds of 40, as there"),
    ],
    # configs/spo_sdxl_4k-prompts_num-sam-2_3-is_10ep_bs2_gradacc2.py
    "spo sdxl": [
        *same(model__resolution=1024), *SPO, *same(method__group_size=2, method__threshold=0.4),
        *same(train__lora_rank=64, train__lora_alpha=64, train__learning_rate=1e-5, train__total_batch_size=2 * 2 * 4),
        *same(train__micro_batch_size=2, method__rollout_batch_size=2 * 2),
        Setting("method.window.stop", 20, None, "the last step of its sampler adds no noise here"),
    ],
}  # fmt: skip


@pytest.mark.parametrize("pair", PAPERS)
def test_every_value_of_a_paper_is_composed_or_differs_for_a_reason(pair):
    method, model = pair.split()
    cfg = composed([f"method={method}", f"model={model}", "data=pickapic", "data.path=PICKAPIC"])
    for setting in PAPERS[pair]:
        found = OmegaConf.to_container(OmegaConf.create({"value": OmegaConf.select(cfg, setting.key)}))["value"]
        assert found == (pytest.approx(setting.ours) if isinstance(found, float) else setting.ours), setting.key
        assert (setting.theirs == setting.ours) == (not setting.reason), setting.key


def test_every_published_pair_of_a_method_and_a_model_is_listed():
    """Presets whose names end in upstream or released stand for the code; the plain ones change our part of it."""
    assert {pair.split()[1] for pair in PAPERS} == {"sd15", "sdxl", "flux"}
    listed = {pair.split()[0].removesuffix("_upstream").removesuffix("_released") for pair in PAPERS}
    assert listed == {"sft", "dpo", "sdpo", "smpo", "inpo", "kto", "mapo", "srpo", "refl", "alignprop", "spo"}
