"""B9: every file of weights that is missing is named with the command, each with the line that fetches it."""

import pytest

from alignbench.configuration.compose import check_command_line
from alignbench.errors import UserError
from alignbench.models.tiny_random.stable_diffusion import tiny_stable_diffusion

PAPERS = [
    "hf download laion/CLIP-ViT-H-14-laion2B-s32B-b79K tokenizer.json",
    "hf download yuvalkirstain/PickScore_v1 model.safetensors",
    "hf download xswu/HPSv2 HPS_v2.1_compressed.pt",
    "hf download THUDM/ImageReward ImageReward.pt",
    "hf download openai/clip-vit-large-patch14 model.safetensors",
    "hf download laion/CLIP-ViT-H-14-laion2B-s32B-b79K open_clip_pytorch_model.bin",
]


def refusal(*words):
    with pytest.raises(UserError) as refused:
        check_command_line([*words], multirun=False)
    return str(refused.value).split("\n")


def test_the_model_and_all_scorers_are_named_together():
    first, *lines = refusal("method=base", "model=flux", "evaluators=papers")
    assert first == (
        "7 sets of weights are missing, and the hub cannot be reached (OfflineModeIsEnabled); while connected, run"
    )
    assert [line.strip() for line in lines] == ["hf download black-forest-labs/FLUX.1-dev", *PAPERS]


def test_so_are_policy_reward_and_tiny_vae_and_folders_that_lack_a_file(tmp_path):
    (tmp_path / "prompts.txt").write_text("a cat\n")
    first, *lines = refusal(
        "method=srpo", "model=sd15", "data=prompts", f"data.path={tmp_path}/prompts.txt", "reward=image_reward",
        "evaluators=shapes",
        "model.policy=someone/policy", "train.reward_vae=madebyollin/taesd",
        "+evaluator@evaluators.hps=hpsv2_1", f"evaluators.hps.source={tmp_path}", "model.revision=abc",
    )  # fmt: skip
    assert first.startswith("5 sets of weights are missing")
    assert [line.strip() for line in lines] == [
        "hf download stable-diffusion-v1-5/stable-diffusion-v1-5 --revision abc",
        "hf download someone/policy",
        "hf download madebyollin/taesd",
        "hf download THUDM/ImageReward ImageReward.pt",
        f"{tmp_path} lacks HPS_v2.1_compressed.pt; give HPS_v2.1_compressed.pt or its folder, or an id of the hub such "
        "as owner/name",
    ]


def test_images_that_exist_need_scorers_alone(tmp_path):
    first, *lines = refusal("model=images", f"model.folders={tmp_path}", "stages=[score]")
    assert first.startswith("6 sets of weights are missing")
    assert [line.strip() for line in lines] == PAPERS


def test_one_that_is_missing_is_a_sentence_of_its_own(tmp_path):
    tiny_stable_diffusion().save_pretrained(tmp_path)
    (told,) = refusal(
        "method=base", "model=sd15", f"model.pretrained_model_name_or_path={tmp_path}", "evaluators=none",
        "+evaluator@evaluators.hps=hpsv2_1", "prompts=shapes",
    )  # fmt: skip
    assert told.startswith("xswu/HPSv2 (HPS_v2.1_compressed.pt) is neither here nor whole in the local hub cache")
    assert "run `hf download xswu/HPSv2 HPS_v2.1_compressed.pt` while connected" in told


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch):
    asked = []

    def no_answer(*args, **kwargs):
        asked.append(args)
        raise TimeoutError

    monkeypatch.setattr("alignbench.models.weights.hub.get_hf_file_metadata", no_answer)
    first, *lines = refusal("method=base", "model=flux", "evaluators=papers")
    assert len(asked) == 1
    assert "(TimeoutError)" in first
    assert len(lines) == 7
