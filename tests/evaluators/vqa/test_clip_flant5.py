"""CLIP-FlanT5 scores as published: teacher-forced, with the end token, by an image that is padded to a square."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer
from torch.nn import functional as F
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection, T5Config, T5ForConditionalGeneration

from alignbench.errors import UserError
from alignbench.evaluator import weight_bytes
from evaluators import load
from evaluators.networks.preprocess import CLIP_MEAN, CLIP_STD
from evaluators.vqa.answers import Question
from evaluators.vqa.clip_flant5 import VqaScoreClipFlanT5
from evaluators.vqa.vqascore import VqaScore
from tests.evaluators.tiny_flant5 import VISION, published_tensors, t5_values
from tests.evaluators.tiny_qwen import noise

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
PROMPTS = ["a cat", 'cat, "no" or a dog - this is longer', "a {cat}"]


@pytest.fixture
def arguments(flant5):
    return {
        "vlm": "clip_flant5_tiny", "source": str(flant5), "revision": None, "tokenizer": str(flant5),
        "precision": "float32", "batch_size": 4, "vision": VISION,
    }  # fmt: skip


@pytest.fixture
def scorer(arguments):
    return VqaScoreClipFlanT5(**arguments)


@pytest.fixture
def copied(flant5, tmp_path):
    """A folder of its own, to be changed."""
    return Path(shutil.copytree(flant5, tmp_path / "copy"))


def square(picture):
    """Return the picture on a square of CLIP's mean colour, 8 bits rounded down."""
    width, height = picture.size
    side = max(width, height)
    array = np.empty((side, side, 3), dtype=np.uint8)
    array[:] = [int(255 * mean) for mean in CLIP_MEAN]
    top, left = (side - height) // 2, (side - width) // 2
    array[top : top + height, left : left + width] = np.array(picture)
    return Image.fromarray(array)


@torch.no_grad()
def direct(folder, picture, prompt):
    """Return exp(-mean cross-entropy) of "Yes</s>" by the published steps, in float64, for one image."""
    size = json.loads((folder / "config.json").read_text())["vocab_size"]
    tensors = published_tensors(size, seed=0)
    tower = CLIPVisionModelWithProjection(CLIPVisionConfig(**VISION | {"hidden_act": "quick_gelu"})).vision_model.eval()
    prefix = "vision_tower.vision_tower.vision_model."
    tower.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}, strict=False)
    flan = T5ForConditionalGeneration(T5Config(**t5_values(), vocab_size=size)).eval()
    flan.lm_head.weight = torch.nn.Parameter(torch.empty_like(flan.shared.weight))
    flan.load_state_dict({k: v for k, v in tensors.items() if k in flan.state_dict()})
    tower, flan = tower.double(), flan.double()

    padded = square(picture).resize((28, 28), Image.Resampling.BICUBIC)
    pixels = torch.from_numpy(np.array(padded)).double().permute(2, 0, 1) / 255
    pixels = (pixels - torch.tensor(CLIP_MEAN).view(3, 1, 1)) / torch.tensor(CLIP_STD).view(3, 1, 1)
    patches = tower(pixels[None], output_hidden_states=True).hidden_states[-2][0, 1:]
    first, second = (tensors[f"mm_projector.{n}.weight"].double() for n in (0, 2))
    hidden = F.gelu(patches @ first.T + tensors["mm_projector.0.bias"])
    image = hidden @ second.T + tensors["mm_projector.2.bias"]

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    text = f'{SYSTEM} USER: <image>\nDoes this figure show "{prompt}"? Please answer yes or no. ASSISTANT: '
    before, after = (flan.shared(torch.tensor(tokenizer.encode(part).ids)) for part in text.split("<image>"))
    states = flan.encoder(inputs_embeds=torch.cat([before, image, after])[None]).last_hidden_state
    answer = tokenizer.encode("Yes").ids
    assert [tokenizer.id_to_token(token) for token in answer] == ["\u2581Yes", "</s>"]
    likelihood = 0.0
    for number, token in enumerate(answer):  # one token after the other
        out = flan.decoder(input_ids=torch.tensor([[0, *answer[:number]]]), encoder_hidden_states=states)
        likelihood += float(flan.lm_head(out.last_hidden_state[0, -1]).log_softmax(dim=0)[token])
    return np.exp(likelihood / len(answer))


def test_a_score_is_exp_of_the_mean_log_probability_of_yes_and_the_end(flant5, scorer):
    for number, (prompt, size) in enumerate(zip(PROMPTS, [(28, 28), (61, 28), (20, 47)], strict=True)):
        expected = direct(flant5, noise(number, size), prompt)
        assert scorer.score([noise(number, size)], [prompt]).item() == pytest.approx(expected, rel=1e-4)
        assert 1e-6 < expected < 0.9
    assert (scorer.name, scorer.version) == ("vqascore_clip_flant5_tiny", "1-paper")


def test_scores_do_not_depend_on_the_batch(scorer):
    pictures = [noise(0), noise(1, (28, 84)), noise(2, (33, 20))]
    together = scorer.score(pictures, PROMPTS)
    alone = torch.cat([scorer.score([one], [two]) for one, two in zip(pictures, PROMPTS, strict=True)])
    torch.testing.assert_close(together, alone, atol=0, rtol=1e-4)
    assert len(set(together.tolist())) == 3


@pytest.mark.parametrize(
    "part", ["vision_tower", "mm_projector", "encoder.block.1", "decoder.block.1", "shared", "lm_head"]
)
def test_every_part_is_read(part, copied, arguments):
    """Other values of a part give another score; the table of words is changed under all of its names."""
    score = VqaScoreClipFlanT5(**arguments).score([noise(0)], ["a cat"]).item()
    words = ("shared", "embed_tokens") if part == "shared" else (part,)
    for file in copied.glob("*.bin"):
        tensors = {name: tensor * (1.5 if any(one in name for one in words) else 1)
                   for name, tensor in torch.load(file).items()}  # fmt: skip
        torch.save(tensors, file)
    changed = VqaScoreClipFlanT5(**arguments | {"source": str(copied)})
    assert changed.score([noise(0)], ["a cat"]).item() != pytest.approx(score, rel=1e-3)


def test_bfloat16_is_near_and_the_size_in_memory_is_known_before(arguments, scorer):
    network = scorer.network
    num = sum(one.nbytes for one in (*network.parameters(), *network.buffers()))
    assert weight_bytes(VqaScoreClipFlanT5, arguments) == num
    assert weight_bytes(VqaScoreClipFlanT5, arguments | {"source": "owner/absent"}) is None
    half = VqaScoreClipFlanT5(**arguments | {"precision": "bfloat16"})
    assert {one.dtype for one in half.network.parameters()} == {torch.bfloat16}
    difference = half.score([noise(0)], ["a cat"]) - scorer.score([noise(0)], ["a cat"])
    assert 0 < difference.abs().item() < 0.01


def test_a_message_is_cut_after_2048_tokens(scorer):
    long = "no " * 3000
    scores = scorer.score([noise(0)] * 2, [long, f"{long} cat"])
    assert scores[0] == scores[1]


def tensor_of(picture):
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float()[None] / 255


def test_a_reward_is_the_score_and_has_a_gradient_everywhere(scorer):
    pictures = [noise(0, (28, 21)), noise(1, (28, 21))]  # padded, and not resized
    scores = scorer.score(pictures, PROMPTS[:2])  # first, and without a gradient
    pixels = torch.cat([tensor_of(one) for one in pictures]).requires_grad_()
    rewards = scorer.reward(pixels, PROMPTS[:2])
    torch.testing.assert_close(rewards.detach(), scores, atol=1e-6, rtol=1e-4)
    [gradient] = torch.autograd.grad(rewards.sum(), pixels)
    assert gradient.isfinite().all()
    assert (gradient != 0).float().mean() > 0.99


def test_the_gradient_equals_finite_differences_and_activations_can_be_computed_twice(arguments):
    reward = VqaScoreClipFlanT5(**arguments, gradient_checkpointing=True)
    reward.network.double()
    pixels = tensor_of(noise(0, (60, 40))).double().requires_grad_()
    for _ in range(2):  # the second time changes nothing
        # logits are made float32, so the score itself has about 7 digits
        [gradient] = torch.autograd.grad(reward.reward(pixels, ["a cat"]).log().sum(), pixels)
    plain = VqaScoreClipFlanT5(**arguments)
    plain.network.double()
    [expected] = torch.autograd.grad(plain.reward(pixels, ["a cat"]).log().sum(), pixels)
    torch.testing.assert_close(gradient, expected)
    direction = gradient / gradient.norm()
    with torch.no_grad():
        up, down = (plain.reward(pixels + sign * 0.005 * direction, ["a cat"]).log() for sign in (1, -1))
    assert ((up - down) / 0.01).item() == pytest.approx(gradient.norm().item(), rel=0.01)


# ---- what is kept


def test_answers_are_kept_apart_from_those_of_other_models(scorer, arguments, settings, own_cache):
    question = [scorer.questions("a cat")[0]]
    [answer] = scorer.questioner.ask([noise(0)], question)
    [_, evidence] = scorer.explain([noise(0)], ["a cat"])
    assert evidence[0]["questions"][0]["probability"] == answer.probability
    other = VqaScore("paper", **settings)
    other.questioner.ask([noise(0)], question)
    half = VqaScoreClipFlanT5(**arguments | {"precision": "bfloat16"})
    names = {one.questioner.cache.folder.name for one in (scorer, other, half)}
    assert len(names) == 3
    assert len(list(own_cache.glob("answers/*/*.jsonl"))) == 2


def test_one_answer_can_be_asked_for(scorer):
    with pytest.raises(UserError, match="can be asked for one answer alone"):
        scorer.questioner.ask([noise(0)], [Question("?", ("Yes", "yes"))])


# ---- as it is configured


def test_the_configuration_builds_it(flant5):
    scorer = load(
        "vqascore_clip_flant5", source=str(flant5), tokenizer=str(flant5 / "tokenizer.json"), vlm="mine",
        precision="float32",
    )  # fmt: skip
    assert (scorer.name, scorer.version, scorer.preprocess.key) == ("vqascore_mine", "1-paper", "pictures")
    with pytest.raises(UserError, match="vqascore_a b cannot be a name"):
        load("vqascore_clip_flant5", source=str(flant5), tokenizer=str(flant5), vlm="a b")
